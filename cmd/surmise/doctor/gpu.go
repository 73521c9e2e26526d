package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
)

// GPU is what a process of its own found when it opened a GPU.
type GPU struct {
	Plugin   string `json:"plugin,omitempty"`   // file
	From     string `json:"from,omitempty"`     // how it was found
	API      string `json:"api,omitempty"`      // version of the PJRT C API
	XLA      string `json:"xla,omitempty"`      // version of XLA, as the plugin gives it
	Platform string `json:"platform,omitempty"` // software below it
	Device   string `json:"device,omitempty"`   // the GPU's model and number
	Limit    int64  `json:"limit,omitempty"`    // most memory that is taken, bytes
	Error    string `json:"error,omitempty"`    // what is missing; "": nothing
	Remedy   string `json:"remedy,omitempty"`
}

// hasGPU tells whether the system shows a driver or a device of NVIDIA's.
func hasGPU(p Probes) bool {
	_, err := fs.Stat(p.Root, "proc/driver/nvidia/version")
	devices, _ := fs.Glob(p.Root, "dev/nvidia[0-9]*")
	return err == nil || len(devices) > 0
}

// gpu needs no CUDA: the driver says what there is.
func gpu(ctx context.Context, p Probes) Check {
	const name = "GPU"
	if !hasGPU(p) {
		return Check{Name: name, Status: OK, Value: "none; jobs run on the CPU"}
	}
	version, err := fs.ReadFile(p.Root, "proc/driver/nvidia/version")
	driver := err == nil
	devices, _ := fs.Glob(p.Root, "dev/nvidia[0-9]*")
	listed, err := p.Command(ctx, "nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
	listed = strings.Join(strings.FieldsFunc(strings.TrimSpace(listed), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	switch {
	case err == nil && listed != "":
		return Check{Name: name, Status: OK, Value: listed}
	case driver && len(devices) == 0:
		return Check{Name: name, Status: Warn, Value: "the driver is loaded, but there is no /dev/nvidia0",
			Remedy: "give the container the device: docker run --gpus all, or the runtime class nvidia"}
	case !driver:
		return Check{Name: name, Status: Warn, Value: fmt.Sprintf("%d devices without a driver", len(devices)), Remedy: "load the NVIDIA kernel module: modprobe nvidia"}
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(version)), "\n")
	return Check{Name: name, Status: Warn, Value: fmt.Sprintf("%s; nvidia-smi: %v", first, err), Remedy: "install nvidia-utils of the driver's version, to see what the GPU does"}
}

// plugin opens a GPU as a worker does, where there is one or somebody named a plugin.
func plugin(ctx context.Context, o Options, p Probes) Check {
	const name = "GPU plugin"
	if !hasGPU(p) && !o.WantGPU {
		return Check{Name: name, Status: OK, Value: "not needed without a GPU"}
	}
	g, err := p.OpenGPU(ctx)
	bad, instead := Warn, "; until then jobs run on the CPU"
	if o.WantGPU { // a worker that is told the same does not start
		bad, instead = Fail, ""
	}
	switch {
	case err != nil:
		return Check{Name: name, Status: bad, Value: fmt.Sprintf("trying the GPU in a process of its own: %v", err),
			Remedy: "what the process said tells more; bring driver, plugin and NVIDIA's libraries to versions that go together"}
	case g.Error != "":
		remedy := g.Remedy
		if remedy == "" {
			remedy = "see docs/guides/gpu.md" + instead
		}
		return Check{Name: name, Status: bad, Value: g.Error, Remedy: remedy}
	}
	return Check{Name: name, Status: OK, Value: fmt.Sprintf("%s, up to %s, by %s (PJRT %s, XLA %s, %s), found by %s",
		g.Device, size(g.Limit), g.Plugin, g.API, g.XLA, strings.ReplaceAll(g.Platform, "\n", " "), g.From)}
}
