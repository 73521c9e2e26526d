package pjrt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
)

// CompileOptions say how a program is compiled. The zero value is right for a program for one device.
type CompileOptions struct {
	// Overrides are compiler flags by name, such as xla_gpu_autotune_level; values are string, bool, int64 or float64.
	Overrides map[string]any
	// Precision is how exact products of floats are where the program leaves that open: 0 default, 1 high, 2 highest.
	Precision int
}

// Compile turns a StableHLO module, as text or bytecode, into a program. It takes as long as the compiler takes.
func (c *Client) Compile(module []byte, o CompileOptions) (*Executable, error) {
	if err := c.enter(); err != nil {
		return nil, fmt.Errorf("compiling: %w", err)
	}
	defer c.leave()
	options, err := o.encode()
	if err != nil {
		return nil, fmt.Errorf("compiling: %w", err)
	}
	var pins runtime.Pinner
	defer pins.Unpin()
	source := pad(c.plugin, program{code: pinned(string(module), &pins), format: pinned("mlir", &pins)})
	args := compileArgs{client: c.handle, program: source, options: pinned(string(options), &pins)}
	if err := call(c.plugin, clientCompile, &args); err != nil {
		return nil, fmt.Errorf("compiling a module of %d bytes: %w", len(module), err)
	}
	x := &Executable{client: c, handle: args.executable}
	c.add(&c.executables, 1)
	reportLeak(x, "executable")
	if err := x.describe(); err != nil {
		return nil, errors.Join(fmt.Errorf("looking at a compiled program: %w", err), x.Close())
	}
	return x, nil
}

// encode writes the protocol buffer CompileOptionsProto of XLA. Field numbers are those of its compile_options.proto.
func (o CompileOptions) encode() ([]byte, error) {
	const (
		buildOptions = 3 // ExecutableBuildOptionsProto
		override     = 7 // map<string, OptionOverrideProto>
		precision    = 10

		deviceOrdinal = 1 // in ExecutableBuildOptionsProto, as the next two
		replicas      = 4
		partitions    = 5
	)
	// Ordinal -1 lets the plugin take the first device that the client sees. Ordinal 0 would be the machine's first.
	build := appendInt(nil, deviceOrdinal, -1)
	build = appendInt(build, replicas, 1)
	build = appendInt(build, partitions, 1)
	out := appendBytes(nil, buildOptions, build)
	for _, name := range slices.Sorted(maps.Keys(o.Overrides)) { // sorted, so that equal options are equal bytes
		value, err := encodeOverride(o.Overrides[name])
		if err != nil {
			return nil, fmt.Errorf("compiler option %s: %w", name, err)
		}
		entry := appendBytes(nil, 1, []byte(name))
		out = appendBytes(out, override, appendBytes(entry, 2, value))
	}
	if o.Precision != 0 {
		out = appendInt(out, precision, int64(o.Precision))
	}
	return out, nil
}

// encodeOverride writes an OptionOverrideProto: one field, by type.
func encodeOverride(value any) ([]byte, error) {
	switch v := value.(type) {
	case string:
		return appendBytes(nil, 1, []byte(v)), nil
	case bool:
		if v {
			return appendInt(nil, 2, 1), nil
		}
		return appendInt(nil, 2, 0), nil
	case int64:
		return appendInt(nil, 3, v), nil
	case float64:
		return binary.LittleEndian.AppendUint64(appendTag(nil, 4, 1), math.Float64bits(v)), nil
	}
	return nil, fmt.Errorf("a %T, want string, bool, int64 or float64", value)
}

// The wire format of protocol buffers: a tag of field number and type, then the value.

func appendTag(b []byte, field, kind int) []byte {
	return binary.AppendUvarint(b, uint64(field)<<3|uint64(kind))
}

func appendInt(b []byte, field int, v int64) []byte {
	return binary.AppendUvarint(appendTag(b, field, 0), uint64(v))
}

func appendBytes(b []byte, field int, v []byte) []byte {
	return append(binary.AppendUvarint(appendTag(b, field, 2), uint64(len(v))), v...)
}
