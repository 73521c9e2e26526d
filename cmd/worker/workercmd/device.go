package workercmd

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/trainer/xla/gpu"
	"github.com/surmise-ml/surmise/worker"
)

// DeviceOptions say what jobs run on.
type DeviceOptions struct {
	Device string // auto, cpu, gpu or gpu:N
	Plugin string // PJRT plugin; "": where it is usually found
	Tuning xla.Tuning
}

// Flags adds --device, --pjrt-plugin and those of the tuning.
func (o *DeviceOptions) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Device, "device", "auto", "what jobs run on: auto (a GPU where there is one that works), cpu, gpu or gpu:N")
	flags.StringVar(&o.Plugin, "pjrt-plugin", "", "PJRT plugin that runs jobs on a GPU (default $"+gpu.PluginEnv+", then that of the Python packages)")
	flags.BoolVar(&o.Tuning.FusedAttention, "gpu-fused-attention", true, "on a GPU, in bf16: let cuDNN compute attention, where it can")
	flags.IntVar(&o.Tuning.Steps, "gpu-steps", 0, "on a GPU: training steps that are started together (default up to 5, by the size of the clips)")
}

// GPUs opens what the options say.
func (o DeviceOptions) GPUs() (*worker.GPUs, error) {
	g := &worker.GPUs{Device: o.Device, Plugin: o.Plugin, System: gpu.Here(), Tuning: o.Tuning}
	if o.Tuning.Steps < 0 || o.Tuning.Steps > 1024 {
		return nil, &FlagError{"gpu-steps", fmt.Sprint(o.Tuning.Steps), errors.New("want 0 to 1024")}
	}
	if err := kernel.Setup(); err != nil { // else every job would fail by what is set here
		return nil, &FlagError{Err: err}
	}
	if err := g.Check(); err != nil {
		return nil, &FlagError{"device", o.Device, err}
	}
	return g, nil
}
