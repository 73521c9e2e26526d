// Package xlatest is a device for tests: it reads the StableHLO that package hlo writes and runs it on a backend in Go
// (github.com/gomlx/compute/gobackend), so that the text itself is tested by its numbers. It is strict where a device
// would be: types must agree, donated buffers are dead, closed ones too, and it counts what is open.
package xlatest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/gobackend"

	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// Device is the emulated device.
type Device struct {
	Free  int64                   // what Memory says; 0: it does not say
	Watch func(m xla.Module)      // called with every module that is compiled; may be nil
	Fail  func(call string) error // called before "compile", "upload", "run" and "download", one at a time; may be nil

	failing sync.Mutex
	mu      sync.Mutex
	backend compute.Backend
	open    map[string]int // buffers and executables
	closed  bool

	Uploads, Runs, Downloads int // read when nothing is under way
}

// New starts an emulated device.
func New() (*Device, error) {
	// One operation after the other: an operation that spreads over the backend's workers while others hold them, as in the
	// body of a loop, may wait for ever.
	b, err := gobackend.New("ops_sequential")
	return &Device{backend: b, open: map[string]int{}}, err
}

// Open is how many buffers and executables have not been closed.
func (d *Device) Open() (buffers, executables int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open["buffer"], d.open["executable"]
}

func (d *Device) count(what string, by int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open[what] += by
}

func (d *Device) tally(n *int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	*n++
}

func (d *Device) before(call string) error {
	if d.closed {
		return fmt.Errorf("%s: the device is closed", call)
	}
	if d.Fail != nil {
		d.failing.Lock()
		defer d.failing.Unlock()
		return d.Fail(call)
	}
	return nil
}

func (d *Device) Name() string { return "emulated device" }

func (d *Device) Memory() (free, total int64, ok bool) { return d.Free, d.Free, d.Free > 0 }

func (d *Device) Close() error {
	d.closed = true
	if b, e := d.Open(); b+e > 0 {
		return fmt.Errorf("%d buffers and %d executables are open", b, e)
	}
	return nil
}

// Compile translates a module.
func (d *Device) Compile(_ context.Context, m xla.Module) (xla.Executable, error) {
	if err := d.before("compile"); err != nil {
		return nil, err
	}
	if d.Watch != nil {
		d.Watch(m)
	}
	parsed, err := parse(m.Text)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", m.Name, err)
	}
	if err := agree(m, parsed); err != nil {
		return nil, fmt.Errorf("module %s: %w", m.Name, err)
	}
	b := d.backend.Builder(m.Name)
	t := &translator{b, b.Main()}
	s := scope{}
	for _, a := range parsed.body.args {
		if s[a.name], err = t.f.Parameter(a.name, shape(a.t), nil); err != nil {
			return nil, err
		}
	}
	out, err := t.run(parsed.body, s)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", m.Name, err)
	}
	if err := t.f.Return(out, nil); err != nil {
		return nil, fmt.Errorf("module %s: %w", m.Name, err)
	}
	e, err := b.Compile()
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", m.Name, err)
	}
	d.count("executable", 1)
	return &executable{d: d, m: m, e: e}, nil
}

// agree holds what the caller says of a module against its text.
func agree(m xla.Module, p *module) error {
	if len(p.body.args) != len(m.Args) || len(p.results) != len(m.Results) {
		return fmt.Errorf("%d arguments and %d results, the text has %d and %d", len(m.Args), len(m.Results), len(p.body.args), len(p.results))
	}
	for i, a := range p.body.args {
		if !a.t.Equal(m.Args[i]) {
			return fmt.Errorf("argument %d is %v, the text says %v", i, m.Args[i], a.t)
		}
	}
	for i, r := range p.results {
		if !r.Equal(m.Results[i]) {
			return fmt.Errorf("result %d is %v, the text says %v", i, m.Results[i], r)
		}
	}
	if !maps.Equal(m.Donated, p.donated) && len(m.Donated)+len(p.donated) > 0 {
		return fmt.Errorf("donated %v, the text says %v", m.Donated, p.donated)
	}
	return nil
}

type executable struct {
	d      *Device
	m      xla.Module
	e      compute.Executable
	closed bool
}

func (e *executable) Memory() (xla.ExecutableMemory, bool) { return xla.ExecutableMemory{}, false }

func (e *executable) Close() error {
	if !e.closed {
		e.closed = true
		e.e.Finalize()
		e.d.count("executable", -1)
	}
	return nil
}

func (e *executable) Run(_ context.Context, args []xla.Buffer) ([]xla.Buffer, error) {
	if err := e.d.before("run"); err != nil {
		return nil, err
	}
	if e.closed || len(args) != len(e.m.Args) {
		return nil, fmt.Errorf("run %s: closed %v, %d arguments, want %d", e.m.Name, e.closed, len(args), len(e.m.Args))
	}
	in := make([]compute.Buffer, len(args))
	for i, a := range args {
		b := a.(*buffer)
		if b.closed || b.dead || !b.t.Equal(e.m.Args[i]) {
			return nil, fmt.Errorf("run %s: argument %d is %v, want %v; closed %v, donated before %v", e.m.Name, i, b.t, e.m.Args[i], b.closed, b.dead)
		}
		var err error
		if in[i], err = e.d.backend.BufferFromFlatData(0, b.flat(), shape(b.t)); err != nil {
			return nil, fmt.Errorf("run %s: argument %d: %w", e.m.Name, i, err)
		}
	}
	for i := range e.m.Donated {
		args[i].(*buffer).dead = true
	}
	out, err := e.e.Execute(in, nil, 0)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", e.m.Name, err)
	}
	e.d.tally(&e.d.Runs)
	results := make([]xla.Buffer, len(out))
	for i, o := range out {
		flat, err := o.Data()
		if err != nil {
			return nil, fmt.Errorf("run %s: result %d: %w", e.m.Name, i, err)
		}
		results[i] = e.d.buffer(e.m.Results[i], append([]byte(nil), raw(flat)...))
		if err := o.Finalize(); err != nil {
			return nil, err
		}
	}
	for _, b := range in {
		if err := b.Finalize(); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func (d *Device) buffer(t xla.Type, data []byte) *buffer {
	d.count("buffer", 1)
	return &buffer{d: d, t: t, data: data}
}

// Upload keeps a copy of data.
func (d *Device) Upload(_ context.Context, t xla.Type, data []byte) (xla.Buffer, error) {
	if err := d.before("upload"); err != nil {
		return nil, err
	}
	if len(data) != t.Bytes() {
		return nil, fmt.Errorf("upload %d bytes as %v", len(data), t)
	}
	d.tally(&d.Uploads)
	return d.buffer(t, append([]byte(nil), data...)), nil
}

type buffer struct {
	d            *Device
	t            xla.Type
	data         []byte
	dead, closed bool
}

func (b *buffer) Type() xla.Type { return b.t }

func (b *buffer) Download(_ context.Context, dst []byte) error {
	if err := b.d.before("download"); err != nil {
		return err
	}
	if b.closed || b.dead || len(dst) != len(b.data) {
		return fmt.Errorf("download %v into %d bytes: closed %v, donated %v", b.t, len(dst), b.closed, b.dead)
	}
	b.d.tally(&b.d.Downloads)
	copy(dst, b.data)
	return nil
}

func (b *buffer) Wait(context.Context) error {
	if b.closed || b.dead {
		return errors.New("wait for a buffer that is gone")
	}
	return nil
}

func (b *buffer) Close() error {
	if !b.closed {
		b.closed = true
		b.d.count("buffer", -1)
	}
	return nil
}

// flat is the data as a slice of Go numbers.
func (b *buffer) flat() any {
	n := b.t.Elements()
	p := unsafe.Pointer(unsafe.SliceData(b.data))
	switch b.t.DType {
	case hlo.F32:
		return unsafe.Slice((*float32)(p), n)
	case hlo.BF16:
		return unsafe.Slice((*bfloat16.BFloat16)(p), n)
	case hlo.S32:
		return unsafe.Slice((*int32)(p), n)
	case hlo.Bool:
		return unsafe.Slice((*bool)(p), n)
	}
	return b.data
}

// raw is a slice of Go numbers as bytes.
func raw(flat any) []byte {
	switch x := flat.(type) {
	case []float32:
		return bytes(x)
	case []bfloat16.BFloat16:
		return bytes(x)
	case []int32:
		return bytes(x)
	case []bool:
		return bytes(x)
	case []uint8:
		return x
	}
	panic(fmt.Sprintf("%T", flat))
}

func bytes[T any](x []T) []byte {
	var one T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), len(x)*int(unsafe.Sizeof(one)))
}
