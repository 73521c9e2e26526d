package worker

import (
	"errors"
	"fmt"

	"github.com/surmise-ml/surmise/internal/osfault"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/source"
)

// An InfrastructureError is the machine's fault, not the job's: another attempt, elsewhere or later, may succeed.
type InfrastructureError struct{ Err error }

func (e *InfrastructureError) Error() string { return e.Err.Error() }
func (e *InfrastructureError) Unwrap() error { return e.Err }

func infrastructure(format string, args ...any) error {
	return &InfrastructureError{fmt.Errorf(format, args...)}
}

// IsInfrastructure reports whether an attempt failed through no fault of its job: bad data, a bad setting, a loss that
// is no number and a panic are the job's.
func IsInfrastructure(err error) bool {
	var marked *InfrastructureError
	var decoder *video.DecoderError
	var away *source.AwayError
	return errors.As(err, &marked) || errors.As(err, &decoder) || errors.As(err, &away) || osfault.OfMachine(err)
}
