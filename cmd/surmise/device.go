package main

import (
	"errors"

	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/trainer/xla"
)

// openDevice opens the accelerator that the options ask for; nil is the CPU.
func openDevice(o workercmd.DeviceOptions) (xla.Device, error) {
	gpus, err := o.GPUs()
	if err != nil {
		return nil, badInput(err)
	}
	return gpus.Open("auto")
}

// closeDevice closes an accelerator, if there is one, and adds what goes wrong to err.
func closeDevice(on xla.Device, err *error) {
	if on != nil {
		*err = errors.Join(*err, on.Close())
	}
}
