package pjrt

import (
	"structs"
	"unsafe"
)

// Argument structs of the C API as minor version 104 has them: fields in its order, so that Go's alignment gives C's
// layout on 64-bit machines. Fields that are always zero here may keep their place under a name of _.

// handle is an object of the plugin's.
type handle uintptr

// header begins every struct: its size, and a chain of extensions, which is not used.
type header struct {
	size       uintptr // bytes
	extensions uintptr
}

// spare is appended to structs for a plugin that is newer than newestMinor. It refuses shorter structs than its own, and
// takes zeros as "not given".
const spare = 128

// text is characters of the plugin's.
type text struct {
	at   *byte
	size uintptr
}

// String copies them, up to a bound.
func (t text) String() string {
	if t.at == nil || t.size == 0 {
		return ""
	}
	return string(unsafe.Slice(t.at, min(t.size, maxText)))
}

const maxText = 1 << 16 // bytes of one message or name

type (
	noArgs struct { // PJRT_Plugin_Initialize
		_ structs.HostLayout
		header
	}

	// ofHandle suits every function that takes an object and gives nothing but an error: destroy, await.
	ofHandle struct {
		_ structs.HostLayout
		header
		object handle
	}

	errorMessageArgs struct {
		_ structs.HostLayout
		header
		err     handle
		message text // out
	}
	errorGetCodeArgs struct {
		_ structs.HostLayout
		header
		err  handle
		code int32 // out
	}

	attributesArgs struct {
		_ structs.HostLayout
		header
		attributes *namedValue // out
		count      uintptr     // out
	}
	// namedValue is an element of arrays, so it has no spare room, ever.
	namedValue struct {
		_ structs.HostLayout
		header
		name  text
		kind  int32
		value uint64 // a pointer, an int64, a float in the low half or a bool in the low byte
		count uintptr
	}

	eventOnReadyArgs struct {
		_ structs.HostLayout
		header
		event    handle
		callback uintptr
		argument uintptr
	}

	clientCreateArgs struct {
		_ structs.HostLayout
		header
		options     *namedValue
		optionCount uintptr
		_           [4]uintptr // callbacks of a key-value store, for clusters
		client      handle     // out
		_           [2]uintptr // another of them
	}
	// textOf suits every function that takes an object and gives a text.
	textOf struct {
		_ structs.HostLayout
		header
		object handle
		text   text // out
	}
	clientDevicesArgs struct {
		_ structs.HostLayout
		header
		client  handle
		devices *handle // out
		count   uintptr // out
	}
	program struct {
		_ structs.HostLayout
		header
		code   text
		format text
	}
	compileArgs struct {
		_ structs.HostLayout
		header
		client     handle
		program    *padded[program]
		options    text
		executable handle // out
	}
	bufferFromHostArgs struct {
		_ structs.HostLayout
		header
		client      handle
		data        unsafe.Pointer
		kind        Type
		dims        *int64
		dimCount    uintptr
		_           [2]uintptr // strides: none, the data is dense and row-major
		semantics   int32
		device      handle
		_           [2]uintptr // memory and layout: the device's default, row-major
		doneReading handle     // out: event
		buffer      handle     // out
	}

	// numberOf suits every function that takes an object and gives an int.
	numberOf struct {
		_ structs.HostLayout
		header
		object handle
		number int32 // out
	}
	// handleOf suits every function that takes an object and gives another.
	handleOf struct {
		_ structs.HostLayout
		header
		object handle
		result handle // out
	}
	memoryStatsArgs struct {
		_ structs.HostLayout
		header
		device      handle
		inUse       int64 // out, as all that follows
		peak        optional64
		allocations optional64
		largest     optional64
		limit       optional64
		_           [3]optional64 // reserved bytes
		largestFree optional64
		pool        optional64
		_           optional64 // peak of pool
	}
	optional64 struct {
		_     structs.HostLayout
		value int64
		set   bool
	}

	executeOptions struct {
		_ structs.HostLayout
		header
		_               [4]uintptr // send and receive callbacks
		launchID        int32
		notDonated      *int64 // indices of arguments
		notDonatedCount uintptr
		_               [6]uintptr // context, call location, tasks, slices
	}
	executeArgs struct {
		_ structs.HostLayout
		header
		executable handle
		options    *padded[executeOptions]
		arguments  **handle // [device][argument]
		devices    uintptr
		count      uintptr  // of arguments
		outputs    **handle // [device][output]
		complete   *handle  // out: event per device
		onlyDevice handle
	}
	countOf struct { // PJRT_Executable_NumOutputs
		_ structs.HostLayout
		header
		executable handle
		count      uintptr // out
	}
	compiledMemoryArgs struct {
		_ structs.HostLayout
		header
		executable                                 handle
		code, arguments, outputs, aliased, scratch int64     // out
		_                                          [10]int64 // out: on the host, and sums
	}

	dimensionsArgs struct {
		_ structs.HostLayout
		header
		buffer handle
		dims   *int64  // out
		count  uintptr // out
	}
	toHostArgs struct {
		_ structs.HostLayout
		header
		buffer handle
		layout *padded[memoryLayout]
		data   unsafe.Pointer
		size   uintptr // bytes
		event  handle  // out
	}
	memoryLayout struct {
		_ structs.HostLayout
		header
		tiled tiledLayout
		kind  int32 // 0: tiled
	}
	tiledLayout struct {
		_ structs.HostLayout
		header
		minorToMajor *int64
		count        uintptr
		_            [3]uintptr // tiles: none
	}
)

// padded is a struct with room behind it.
type padded[T any] struct {
	args T
	_    [spare]byte
}

// pad makes the struct that the plugin is shown, with its size filled in. T begins with a header.
func pad[T any](p *Plugin, args T) *padded[T] {
	block := &padded[T]{args: args}
	size := unsafe.Sizeof(args)
	if p.newer {
		size += spare
	}
	(*header)(unsafe.Pointer(block)).size = size
	return block
}
