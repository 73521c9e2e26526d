package pjrt

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"unsafe"

	"github.com/ebitengine/purego"
)

// Code is the kind of an error, the same numbers as in gRPC.
type Code int32

// Those that a caller acts on.
const (
	InvalidArgument    Code = 3
	NotFound           Code = 5
	ResourceExhausted  Code = 8
	FailedPrecondition Code = 9
	Unimplemented      Code = 12
	Internal           Code = 13
	Unavailable        Code = 14
)

var codeNames = [...]string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
	"UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}

func (c Code) String() string {
	if c < 0 || int(c) >= len(codeNames) {
		return fmt.Sprintf("code %d", int32(c))
	}
	return codeNames[c]
}

// Error is what a plugin answered.
type Error struct {
	Function string // that was called
	Code     Code
	Text     string // the plugin's own
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v: %s", e.Function, e.Code, e.Text) }

// IsOutOfMemory tells whether a device had not enough memory, and how many bytes were asked for; 0 where the plugin does
// not say.
func IsOutOfMemory(err error) (wanted int64, is bool) {
	var e *Error
	if !errors.As(err, &e) || e.Code != ResourceExhausted {
		return 0, false
	}
	return wantedBytes(e.Text), true
}

// wanted finds the size in what XLA's allocators say: "Out of memory while trying to allocate 17179869184 bytes", or
// "... allocate 16.00GiB".
var wanted = regexp.MustCompile(`(?i)allocat\w* +([0-9]+(?:\.[0-9]+)?) ?(bytes|[KMGT]i?B|B)\b`)

func wantedBytes(s string) int64 {
	m := wanted.FindStringSubmatch(s)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0
	}
	switch m[2][0] {
	case 'K', 'k':
		n *= 1 << 10
	case 'M', 'm':
		n *= 1 << 20
	case 'G', 'g':
		n *= 1 << 30
	case 'T', 't':
		n *= 1 << 40
	}
	if n > 1<<62 {
		return 0
	}
	return int64(n)
}

// takeError reads an error and gives it back to the plugin.
func (p *Plugin) takeError(f function, err handle) error {
	message := pad(p, errorMessageArgs{err: err})
	purego.SyscallN(p.table[errorMessage], uintptr(unsafe.Pointer(message))) // gives nothing
	e := &Error{Function: f.String(), Code: 2, Text: message.args.message.String()}
	code := pad(p, errorGetCodeArgs{err: err})
	failed, _, _ := purego.SyscallN(p.table[errorGetCode], uintptr(unsafe.Pointer(code)))
	if failed == 0 {
		e.Code = Code(code.args.code)
	} else {
		p.destroyError(handle(failed))
	}
	p.destroyError(err)
	return e
}

func (p *Plugin) destroyError(err handle) {
	args := pad(p, ofHandle{object: err})
	purego.SyscallN(p.table[errorDestroy], uintptr(unsafe.Pointer(args))) // gives nothing
}
