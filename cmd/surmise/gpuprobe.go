package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/surmise-ml/surmise/cmd/surmise/doctor"
	"github.com/surmise-ml/surmise/trainer/xla/gpu"
)

// gpuOptions name a GPU and its plugin.
type gpuOptions struct {
	device string
	plugin string
}

func (o *gpuOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.device, "device", "auto", "GPU to try: auto, gpu or gpu:N")
	f.StringVar(&o.plugin, "pjrt-plugin", "", "PJRT plugin of the GPU (default "+gpu.PluginEnv+", or one among Python's packages)")
}

func (o *gpuOptions) check() error {
	if _, err := gpu.ParseChoice(o.device); err != nil {
		return fmt.Errorf("--device: %w", err)
	}
	return nil
}

// named tells whether somebody asked for a GPU.
func (o *gpuOptions) named() bool {
	c, err := gpu.ParseChoice(o.device)
	return err == nil && c.GPU || o.plugin != "" || os.Getenv(gpu.PluginEnv) != ""
}

// probePatience is how long opening a GPU may take: loading a gigabyte of libraries from a slow disk, at worst.
const probePatience = 2 * time.Minute

// mostSaid bounds what is kept of what a process said, bytes.
const mostSaid = 64 << 10

// openElsewhere opens a GPU in another process of this program, which a broken driver may end.
func (o *gpuOptions) openElsewhere(ctx context.Context) (doctor.GPU, error) {
	self, err := os.Executable()
	if err != nil {
		return doctor.GPU{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	probe := exec.CommandContext(ctx, self, "gpu-probe", "--device", o.device, "--pjrt-plugin", o.plugin)
	probe.WaitDelay = time.Second
	out, said := &tail{most: mostSaid}, &tail{most: mostSaid}
	probe.Stdout, probe.Stderr = out, said
	if err := probe.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer in %v", probePatience)
		}
		if why := reason(said.Bytes()); why != "" {
			err = fmt.Errorf("%w: %s", err, why)
		}
		return doctor.GPU{}, err
	}
	var g doctor.GPU
	if err := json.Unmarshal(bytes.TrimSpace(out.Bytes()), &g); err != nil {
		return doctor.GPU{}, fmt.Errorf("its answer %.100q: %w", out.Bytes(), err)
	}
	return g, nil
}

// tail keeps the last bytes written to it.
type tail struct {
	bytes.Buffer
	most int
}

func (t *tail) Write(p []byte) (int, error) {
	n, err := t.Buffer.Write(p)
	if over := t.Len() - t.most; over > 0 {
		t.Next(over)
	}
	return n, err
}

// fatal is how a line begins that says why a process ends: as XLA logs a failed check, and as Go reports a signal.
var fatal = regexp.MustCompile(`(?m)^(F\d{4} |SIG[A-Z]+: |fatal error: |panic: ).*$`)

// reason picks the line that says why a process ended; where none does, the last.
func reason(said []byte) string {
	if line := fatal.Find(said); line != nil {
		return string(line)
	}
	lines := bytes.Split(bytes.TrimSpace(said), []byte("\n"))
	return string(lines[len(lines)-1])
}

// newGPUProbeCommand is what doctor starts.
func newGPUProbeCommand() *cobra.Command {
	var o gpuOptions
	cmd := &cobra.Command{
		Use:    "gpu-probe",
		Short:  "Open a GPU, say what was found as JSON, and give it back",
		Hidden: true,
		Args:   noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return badInput(err)
			}
			return o.probe(gpu.Here(), cmd.OutOrStdout())
		},
	}
	o.flags(cmd.Flags())
	return cmd
}

func (o *gpuOptions) probe(s gpu.System, out io.Writer) error {
	choice, err := gpu.ParseChoice(o.device)
	if err != nil {
		return badInput(err)
	}
	var g doctor.GPU
	device, err := s.Open(gpu.Options{Plugin: o.plugin, Index: choice.Index})
	if err != nil {
		g.Error, g.Remedy = err.Error(), gpu.Remedy(err)
		return json.NewEncoder(out).Encode(g)
	}
	client := device.Client()
	g.Plugin, g.From = client.Plugin().Path(), device.From()
	g.API, g.XLA = client.Plugin().Version(), client.Plugin().Attributes()["xla_version"]
	g.Platform, g.Device = client.PlatformVersion(), device.Name()
	_, g.Limit, _ = device.Memory()
	return errors.Join(json.NewEncoder(out).Encode(g), device.Close())
}
