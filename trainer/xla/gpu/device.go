package gpu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"

	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/trainer/xla/pjrt"
)

// Device is an open GPU. It is an xla.Device.
type Device struct {
	client *pjrt.Client
	device *pjrt.Device
	plugin Plugin
	copied int // bytes of a tensor at most that is copied before it is sent

	optionsMu sync.Mutex
	overrides map[string]any // replaced, never changed: a compilation may be reading it
}

var _ xla.Device = (*Device)(nil)

// mostCopied is a tensor that is copied into memory of the plugin's, which the system cannot move, before it is sent: the
// caller goes on meanwhile. More of such memory takes a plugin long to get, and ends the process where it cannot.
const mostCopied = 512 << 20

// usual are the compiler flags that differ from XLA's own values.
var usual = map[string]any{
	// Products by cuBLAS alone. To try Triton's kernels for every product takes most of half a minute for each module.
	"xla_gpu_enable_triton_gemm": false,
}

func newDevice(client *pjrt.Client, plugin Plugin, xlaFlags string, overrides map[string]any) *Device {
	d := &Device{client: client, device: client.Devices()[0], plugin: plugin, overrides: map[string]any{}, copied: mostCopied}
	for name, value := range usual {
		if !strings.Contains(xlaFlags, name) { // a flag of the environment is meant
			d.overrides[name] = value
		}
	}
	if data := plugin.dataFolder(); data != "" {
		d.overrides["xla_gpu_cuda_data_dir"] = data
	}
	maps.Copy(d.overrides, overrides)
	return d
}

// Name is the model and the number: "NVIDIA H200 (cuda 0)".
func (d *Device) Name() string { return d.device.String() }

// Client is what the device came from, for those who ask for versions.
func (d *Device) Client() *pjrt.Client { return d.client }

// From says how the plugin was found: see Plugin.From.
func (d *Device) From() string { return d.plugin.From }

// Memory is what the allocator can still give, and the most that it takes.
func (d *Device) Memory() (free, total int64, ok bool) {
	m, err := d.device.Memory()
	if err != nil || m.Limit < 0 {
		return 0, 0, false
	}
	return m.Limit - m.InUse, m.Limit, true
}

// Close gives the GPU back.
func (d *Device) Close() error { return d.client.Close() }

// kinds are the plugin's element types by ours.
var kinds = map[xla.DType]pjrt.Type{xla.F32: pjrt.F32, xla.BF16: pjrt.BF16, xla.S32: pjrt.S32, xla.U8: pjrt.U8, xla.Bool: pjrt.Pred}

// Upload copies data, which may be changed when it returns. How the transfer went shows in what is done with the buffer.
func (d *Device) Upload(ctx context.Context, t xla.Type, data []byte) (xla.Buffer, error) {
	kind, known := kinds[t.DType]
	if !known {
		return nil, fmt.Errorf("uploading a %v: no such element type", t)
	}
	send := d.device.UploadCopy
	if len(data) > d.copied {
		send = d.device.Upload
	}
	b, sent, err := send(kind, t.Dims, data)
	if err == nil && len(data) > d.copied {
		if err = sent.Wait(context.WithoutCancel(ctx)); err != nil { // not before it is over: it reads data
			err = errors.Join(err, b.Close())
		}
	}
	if err != nil {
		return nil, d.outOfMemory(fmt.Sprintf("a tensor %v", t), int64(t.Bytes()), err)
	}
	return &buffer{d, b, t, fmt.Sprintf("a tensor %v", t)}, nil
}

// Compile ends before ctx does only where the compiler is done by then.
func (d *Device) Compile(ctx context.Context, m xla.Module) (xla.Executable, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("compiling %s: %w", m.Name, err)
	}
	overrides := d.options()
	x, err := d.client.Compile([]byte(m.Text), pjrt.CompileOptions{Overrides: overrides})
	for name := range usual {
		if _, given := overrides[name]; err != nil && given && strings.Contains(err.Error(), "No such compile option: '"+name+"'") {
			slog.Warn("the plugin's compiler no longer has an option, and goes by its own choice", "option", name, "device", d.Name())
			overrides = d.without(name)
			x, err = d.client.Compile([]byte(m.Text), pjrt.CompileOptions{Overrides: overrides})
		}
	}
	if err != nil {
		return nil, d.outOfMemory("compiling "+m.Name, m.Reserved, err)
	}
	if x.Outputs() != len(m.Results) {
		return nil, errors.Join(fmt.Errorf("compiling %s: the program gives %d results, want %d", m.Name, x.Outputs(), len(m.Results)), x.Close())
	}
	p := &program{device: d, module: m, executable: x}
	for i := range m.Donated {
		p.donated = append(p.donated, i)
	}
	return p, nil
}

func (d *Device) options() map[string]any {
	d.optionsMu.Lock()
	defer d.optionsMu.Unlock()
	return d.overrides
}

// without leaves an option out from now on.
func (d *Device) without(name string) map[string]any {
	d.optionsMu.Lock()
	defer d.optionsMu.Unlock()
	d.overrides = maps.Clone(d.overrides)
	delete(d.overrides, name)
	return d.overrides
}

// outOfMemory makes an error of lacking memory one that names the sizes. wanted is used where the plugin names none.
func (d *Device) outOfMemory(what string, wanted int64, err error) error {
	said, is := pjrt.IsOutOfMemory(err)
	if !is {
		return fmt.Errorf("%s: %w", what, err)
	}
	if said > 0 {
		wanted = said
	}
	free, total, _ := d.Memory()
	return &xla.OutOfMemoryError{What: what, Wanted: wanted, Free: free, Total: total, Err: err}
}

// program is a compiled module.
type program struct {
	device     *Device
	module     xla.Module
	executable *pjrt.Executable
	donated    []int
}

func (p *program) Run(_ context.Context, args []xla.Buffer) ([]xla.Buffer, error) {
	in := make([]*pjrt.Buffer, len(args))
	for i, a := range args {
		b, ok := a.(*buffer)
		if !ok {
			return nil, fmt.Errorf("running %s: argument %d is of another device", p.module.Name, i)
		}
		in[i] = b.buffer
	}
	out, _, err := p.executable.Execute(in, p.donated) // how the run ends shows in each result
	if err != nil {
		var planned int64
		if m, ok := p.Memory(); ok {
			planned = m.Results - m.Aliased + m.Temporary
		}
		return nil, p.device.outOfMemory("running "+p.module.Name, planned, err)
	}
	results := make([]xla.Buffer, len(out))
	for i, b := range out {
		results[i] = &buffer{p.device, b, p.module.Results[i], "running " + p.module.Name}
	}
	return results, nil
}

func (p *program) Memory() (xla.ExecutableMemory, bool) {
	m, ok := p.executable.Memory()
	return xla.ExecutableMemory{Args: m.Arguments, Results: m.Outputs, Aliased: m.Aliased, Temporary: m.Temporary, Code: m.Code}, ok
}

func (p *program) Close() error { return p.executable.Close() }

// buffer is a tensor on the GPU.
type buffer struct {
	device *Device
	buffer *pjrt.Buffer
	kind   xla.Type
	source string // what made it, and shows in it when that failed
}

func (b *buffer) Type() xla.Type { return b.kind }

func (b *buffer) Download(ctx context.Context, dst []byte) error {
	fetched, err := b.buffer.Download(dst)
	if err == nil {
		err = fetched.Wait(ctx)
	}
	if err != nil {
		return b.device.outOfMemory(b.source, 0, fmt.Errorf("downloading a %v: %w", b.kind, err))
	}
	return nil
}

func (b *buffer) Wait(ctx context.Context) error {
	ready, err := b.buffer.Ready()
	if err == nil {
		err = ready.Wait(ctx)
	}
	if err != nil {
		return b.device.outOfMemory(b.source, 0, fmt.Errorf("waiting for a %v: %w", b.kind, err))
	}
	return nil
}

func (b *buffer) Close() error { return b.buffer.Close() }
