package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/trainer/xla/gpu"
)

// open opens what a job's device says, for the job to close: an accelerator, or nil for the CPU. A spec that was stored
// before there was a choice runs on the CPU.
func (j Jobs) open(device string) (xla.Device, error) {
	device = cmp.Or(device, "cpu")
	if _, err := gpu.ParseChoice(device); err != nil {
		return nil, err
	}
	if device == "cpu" || j.Open == nil && device == "auto" {
		return nil, nil
	}
	if j.Open == nil {
		return nil, fmt.Errorf("device is %s, and this worker runs jobs on its CPU", device)
	}
	d, err := j.Open(device)
	if err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	return d, nil
}

// machineOptions are what a complete spec asks of this machine, with precision auto resolved.
func machineOptions(threads int32, word string, on xla.Device) (cpu.Options, error) {
	n, err := trainer.Threads(int(threads))
	if err != nil {
		return cpu.Options{}, err
	}
	p, err := trainer.ResolvePrecision(precision(word), on)
	if err != nil {
		return cpu.Options{}, err
	}
	return cpu.Options{Threads: n, Precision: p}, nil
}

// closeDevice closes an accelerator, if there is one, and adds what goes wrong to a job's error.
func closeDevice(on xla.Device, err *error) {
	if on != nil {
		*err = errors.Join(*err, on.Close())
	}
}

// GPUs opens the GPU that jobs of a worker run on; see Jobs.Open. It is used as a pointer.
type GPUs struct {
	Device string     // the worker's: auto, cpu, gpu or gpu:N; "": auto
	Plugin string     // PJRT plugin; "": where it is usually found
	System gpu.System // that it is looked for on
	Tuning xla.Tuning // of what runs on it

	told sync.Once // why jobs run on the CPU
}

// Check says whether Device can be.
func (g *GPUs) Check() error {
	_, err := gpu.ParseChoice(g.Device)
	return err
}

// Probe opens the worker's own GPU and closes it, where one was named: a worker that has none would fail every job.
func (g *GPUs) Probe() error {
	own, err := gpu.ParseChoice(g.Device)
	if err != nil || !own.GPU {
		return err
	}
	d, err := g.Open(own.String())
	if err != nil {
		return err
	}
	return d.Close()
}

// Open opens the GPU for a job's device, auto, gpu or gpu:N. It is the worker's own, where the worker has one; a job that
// names another is refused. For auto, a worker without a GPU of its own takes the first that works, or returns nil: the
// CPU. Why is logged once, unless there is no GPU at all.
func (g *GPUs) Open(device string) (xla.Device, error) {
	own, err := gpu.ParseChoice(g.Device)
	if err != nil {
		return nil, err
	}
	asked, err := gpu.ParseChoice(device)
	if err != nil {
		return nil, err
	}
	index := asked.Index
	named := strings.Contains(device, ":")
	switch {
	case !own.Auto && !own.GPU && asked.Auto, !asked.Auto && !asked.GPU:
		return nil, nil
	case !own.Auto && !own.GPU:
		return nil, fmt.Errorf("%s, and this worker runs jobs on its CPU", device)
	case own.GPU && named && asked.Index != own.Index:
		return nil, fmt.Errorf("%s, and this worker has %v", device, own)
	case own.GPU && !named:
		index = own.Index
	}
	d, err := g.System.Open(gpu.Options{Plugin: g.Plugin, Index: index})
	if err == nil {
		slog.Info("running on a GPU", "device", d.Name())
		return xla.Tune(d, g.Tuning), nil
	}
	switch {
	case own.GPU: // what this worker has been told to have is not the job's fault
		return nil, infrastructure("%w", gpu.WithRemedy(err))
	case !own.Auto || !asked.Auto:
		return nil, gpu.WithRemedy(err)
	}
	var driver *gpu.NoDriverError
	var card *gpu.NoCardError
	level := slog.LevelWarn
	if errors.As(err, &driver) && driver.Missing || errors.As(err, &card) && len(card.Driver.Cards) == 0 {
		level = slog.LevelDebug // no GPU: nobody expects one to be used
	}
	g.told.Do(func() {
		slog.Log(context.Background(), level, "no GPU can be used: running on the CPU", "why", gpu.WithRemedy(err))
	})
	return nil, nil
}
