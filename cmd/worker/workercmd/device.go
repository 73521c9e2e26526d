package workercmd

import (
	"github.com/spf13/pflag"

	"github.com/surmise-ml/surmise/trainer/xla/gpu"
	"github.com/surmise-ml/surmise/worker"
)

// DeviceOptions say what jobs run on.
type DeviceOptions struct {
	Device string // auto, cpu, gpu or gpu:N
	Plugin string // PJRT plugin; "": where it is usually found
}

// Flags adds --device and --pjrt-plugin.
func (o *DeviceOptions) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Device, "device", "auto", "what jobs run on: auto (a GPU where there is one that works), cpu, gpu or gpu:N")
	o.PluginFlag(flags)
}

// PluginFlag adds --pjrt-plugin to a command whose job says what it runs on.
func (o *DeviceOptions) PluginFlag(flags *pflag.FlagSet) {
	flags.StringVar(&o.Plugin, "pjrt-plugin", "", "PJRT plugin that runs jobs on a GPU (default $"+gpu.PluginEnv+", then that of the Python packages)")
}

// GPUs opens what the options say.
func (o DeviceOptions) GPUs() (*worker.GPUs, error) {
	g := &worker.GPUs{Device: o.Device, Plugin: o.Plugin, System: gpu.Here()}
	if err := g.Check(); err != nil {
		return nil, &FlagError{"device", o.Device, err}
	}
	return g, nil
}
