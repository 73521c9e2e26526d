package xlatest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/trainer/xla/gpu"
)

// On is the environment variable that names a real device, gpu or gpu:N, for Open and Machine to use in place of an
// emulated one.
const On = "SURMISE_TEST_DEVICE"

// lent is the device that On names, nil if it names none. All machines share it, and it goes with the process.
var lent = sync.OnceValues(func() (xla.Device, error) {
	name := os.Getenv(On)
	if name == "" {
		return nil, nil
	}
	choice, err := gpu.ParseChoice(name)
	if err != nil || !choice.GPU {
		return nil, fmt.Errorf("%s is %q, want gpu or gpu:N", On, name)
	}
	d, _, err := gpu.Here().Choose(choice, gpu.Options{})
	if err != nil {
		return nil, err
	}
	return d, nil
})

// shared is a device that stays open.
type shared struct{ xla.Device }

// Close does nothing.
func (shared) Close() error { return nil }

// Open gives an emulated device, or the real one that On names.
func Open() (xla.Device, error) {
	if d, err := lent(); err != nil {
		return nil, err
	} else if d != nil {
		return shared{d}, nil
	}
	return New()
}

// owner is a machine with a device of its own.
type owner struct {
	*xla.Machine
	d xla.Device
}

// Close closes both. What the machine has left open is an error.
func (o owner) Close() error { return errors.Join(o.Machine.Close(), o.d.Close()) }

// Machine puts a program on a device that Open gives.
func Machine(p *graph.Program) (graph.Machine, error) {
	d, err := Open()
	if err != nil {
		return nil, err
	}
	m, err := xla.New(context.Background(), p, d, xla.Options{})
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return owner{m, d}, nil
}
