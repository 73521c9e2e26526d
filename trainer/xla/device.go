package xla

import (
	"context"
	"fmt"
	"strings"

	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// Device is one accelerator, as a PJRT plugin offers it. Its methods and those of what it makes may be called from several
// goroutines at once.
//
// Work is asynchronous: Upload and Run return before it is done, in the order of the calls, and what went wrong may show
// only in Buffer.Download or Buffer.Wait. Errors carry the plugin's own text.
type Device interface {
	// Name says what it is, for people: "NVIDIA H200 (cuda 0)".
	Name() string
	// Memory is what the device can still give and what it has, bytes. ok is false where it does not say.
	Memory() (free, total int64, ok bool)
	// Compile turns a module into a program for this device.
	Compile(ctx context.Context, m Module) (Executable, error)
	// Upload copies data, row-major and little-endian, to the device. data may be changed when it returns.
	Upload(ctx context.Context, t Type, data []byte) (Buffer, error)
	// Close gives the device back. Everything made from it must have been closed.
	Close() error
}

// Module is a program in StableHLO.
type Module struct {
	Name     string // for messages and dumps
	Text     string // MLIR, generic form; its entry is the public function "main"
	Args     []Type
	Results  []Type
	Donated  map[int]int // argument -> result that takes over its memory; the text says so too (tf.aliasing_output)
	Reserved int64       // bytes that the caller expects it to take beside arguments and results; 0: not known
}

// Executable is a compiled module.
type Executable interface {
	// Run starts the program on one buffer for each argument and returns one for each result; it does not wait. Buffers of
	// donated arguments are used up: all that may still be done with them is Close.
	Run(ctx context.Context, args []Buffer) ([]Buffer, error)
	// Memory is what the compiler planned; ok is false where the plugin does not say.
	Memory() (m ExecutableMemory, ok bool)
	Close() error
}

// ExecutableMemory is device memory that a compiled program takes, bytes.
type ExecutableMemory struct {
	Args, Results, Aliased int64 // Aliased: results in the memory of donated arguments
	Temporary, Code        int64
}

// Total is all that must be there for it to run.
func (m ExecutableMemory) Total() int64 { return m.Args + m.Results - m.Aliased + m.Temporary + m.Code }

// Buffer is a tensor on the device.
type Buffer interface {
	Type() Type
	// Download waits until the tensor is there and copies it to dst, which has Type().Bytes() bytes; row-major, little-endian.
	Download(ctx context.Context, dst []byte) error
	// Wait waits until the tensor is there.
	Wait(ctx context.Context) error
	// Close gives the memory back, after the work that was started on it. Closing it again does nothing.
	Close() error
}

// OutOfMemoryError is a device's answer to a program or a tensor that does not fit. A device wraps the plugin's error in it.
type OutOfMemoryError struct {
	What        string // that did not fit
	Wanted      int64  // bytes; 0: not known
	Free, Total int64  // bytes on the device; 0: not known
	Err         error  // the plugin's
}

func (e *OutOfMemoryError) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s does not fit in the device's memory", e.What)
	if e.Wanted > 0 {
		fmt.Fprintf(&s, ", it takes %s", gib(e.Wanted))
	}
	if e.Total > 0 {
		fmt.Fprintf(&s, " (%s free of %s)", gib(e.Free), gib(e.Total))
	}
	if e.Err != nil {
		fmt.Fprintf(&s, ": %v", e.Err)
	}
	return s.String()
}

// Unwrap is the plugin's error.
func (e *OutOfMemoryError) Unwrap() error { return e.Err }

func gib(bytes int64) string { return fmt.Sprintf("%.3g GiB", float64(bytes)/(1<<30)) }

// DType is an element type.
type DType = hlo.DType

// Type is a tensor's element type and sizes.
type Type = hlo.Type

// Element types.
const (
	F32  = hlo.F32
	BF16 = hlo.BF16
	S32  = hlo.S32
	U8   = hlo.U8
	Bool = hlo.Bool // a byte each in memory
)
