package worker

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/surmise-ml/surmise/video"
)

// An InfrastructureError is the machine's fault, not the job's: another attempt, elsewhere or later, may succeed.
type InfrastructureError struct{ Err error }

func (e *InfrastructureError) Error() string { return e.Err.Error() }
func (e *InfrastructureError) Unwrap() error { return e.Err }

func infrastructure(format string, args ...any) error {
	return &InfrastructureError{fmt.Errorf(format, args...)}
}

// machineErrors are what the operating system answers when a machine is full, out of something, or broken. What else it
// answers, a file that is missing or may not be read, is for the job to put right.
var machineErrors = []error{
	syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, // disk full, or the process may write no more
	syscall.EIO, syscall.EROFS, syscall.ESTALE, syscall.ENODEV, syscall.ENXIO, // disk or mount gone bad
	syscall.ENOMEM, syscall.EAGAIN, syscall.EMFILE, syscall.ENFILE, // out of memory, processes, descriptors
	syscall.ETIMEDOUT, syscall.EHOSTDOWN, syscall.ECONNRESET, syscall.ENOTCONN, // network file systems
}

// IsInfrastructure reports whether an attempt failed through no fault of its job: bad data, a bad setting, a loss that
// is no number and a panic are the job's.
func IsInfrastructure(err error) bool {
	var marked *InfrastructureError
	var decoder *video.DecoderError
	if errors.As(err, &marked) || errors.As(err, &decoder) {
		return true
	}
	for _, e := range machineErrors {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
