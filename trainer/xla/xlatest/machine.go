package xlatest

import (
	"context"
	"errors"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla"
)

// owner is a machine with a device of its own.
type owner struct {
	*xla.Machine
	d *Device
}

// Close closes both. What the machine has left open is an error.
func (o owner) Close() error { return errors.Join(o.Machine.Close(), o.d.Close()) }

// Machine puts a program on an emulated device of its own.
func Machine(p *graph.Program) (graph.Machine, error) {
	d, err := New()
	if err != nil {
		return nil, err
	}
	m, err := xla.New(context.Background(), p, d, xla.Options{})
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return owner{m, d}, nil
}
