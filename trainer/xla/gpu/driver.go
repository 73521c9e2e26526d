package gpu

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/surmise-ml/surmise/trainer/xla/pjrt"
)

// Card is a GPU as the driver shows it.
type Card struct {
	Index int // as in gpu:0, after CUDA_VISIBLE_DEVICES
	Name  string
	Total int64  // bytes of memory
	Bus   string // address on the PCI bus: "0000:1b:00.0"
}

func (c Card) String() string { return fmt.Sprintf("gpu:%d %s, %s", c.Index, c.Name, gib(c.Total)) }

// Driver is what NVIDIA's driver says of itself.
type Driver struct {
	CUDA  int // newest CUDA version that it runs: 13000 for 13.0
	Cards []Card
}

// Major is the major version of CUDA.
func (d Driver) Major() int { return d.CUDA / 1000 }

// NoDriverError says that there is no driver that works.
type NoDriverError struct {
	Missing bool // its library is not there at all
	Err     error
}

func (e *NoDriverError) Error() string { return fmt.Sprintf("no working NVIDIA driver: %v", e.Err) }
func (e *NoDriverError) Unwrap() error { return e.Err }

// noDevice is what cuInit answers on a machine without a GPU.
const noDevice = 100

// maxCards bounds what a driver may claim to have.
const maxCards = 256

// ReadDriver asks the driver. It takes no memory of a GPU.
func (s System) ReadDriver() (Driver, error) {
	name := s.Driver
	if name == "" {
		name = "libcuda.so.1"
	}
	library, err := pjrt.OpenLibrary(name, purego.RTLD_LAZY|purego.RTLD_GLOBAL)
	if err != nil {
		return Driver{}, &NoDriverError{Missing: true, Err: err}
	}
	cu := entry{library: library, describe: "cuGetErrorString"}
	var d Driver
	code, err := cu.try("cuInit", 0)
	if code == noDevice { // it is a driver all the same
		return d, nil
	}
	var version, count int32
	err = errors.Join(err,
		cu.call("cuDriverGetVersion", uintptr(unsafe.Pointer(&version))),
		cu.call("cuDeviceGetCount", uintptr(unsafe.Pointer(&count))))
	if err != nil {
		return Driver{}, &NoDriverError{Err: err}
	}
	d.CUDA = int(version)
	for i := range min(int(count), maxCards) {
		c, err := cu.card(i)
		if err != nil {
			return Driver{}, &NoDriverError{Err: fmt.Errorf("asking for gpu:%d: %w", i, err)}
		}
		d.Cards = append(d.Cards, c)
	}
	return d, nil
}

func (cu entry) card(i int) (Card, error) {
	var device int32
	var total uint64
	var name [256]byte
	var bus [64]byte
	if err := cu.call("cuDeviceGet", uintptr(unsafe.Pointer(&device)), uintptr(i)); err != nil {
		return Card{}, err
	}
	err := errors.Join(
		cu.call("cuDeviceGetName", uintptr(unsafe.Pointer(&name[0])), uintptr(len(name)), uintptr(device)),
		cu.call("cuDeviceTotalMem_v2", uintptr(unsafe.Pointer(&total)), uintptr(device)),
		cu.call("cuDeviceGetPCIBusId", uintptr(unsafe.Pointer(&bus[0])), uintptr(len(bus)), uintptr(device)))
	return Card{Index: i, Name: upToZero(name[:]), Total: int64(total), Bus: upToZero(bus[:])}, err
}

// Free is the memory of a card that no program has taken, bytes. The library that tells comes with the driver, but not
// into every container.
func (s System) Free(c Card) (int64, error) {
	name := s.Manager
	if name == "" {
		name = "libnvidia-ml.so.1"
	}
	library, err := pjrt.OpenLibrary(name, purego.RTLD_LAZY|purego.RTLD_LOCAL)
	if err != nil {
		return 0, fmt.Errorf("asking for the free memory of %v: %w", c, err)
	}
	ml := entry{library: library, describe: "nvmlErrorString"}
	bus := append([]byte(c.Bus), 0)
	var device uintptr
	var memory struct{ total, free, used uint64 }
	err = ml.call("nvmlInit_v2")
	if err == nil {
		err = ml.call("nvmlDeviceGetHandleByPciBusId_v2", uintptr(unsafe.Pointer(&bus[0])), uintptr(unsafe.Pointer(&device)))
		if err == nil {
			err = ml.call("nvmlDeviceGetMemoryInfo", device, uintptr(unsafe.Pointer(&memory)))
		}
		err = errors.Join(err, ml.call("nvmlShutdown"))
	}
	if err != nil {
		return 0, fmt.Errorf("asking for the free memory of %v: %w", c, err)
	}
	return int64(memory.free), nil
}

// entry calls functions of a library that answer 0 when all is well.
type entry struct {
	library  uintptr
	describe string // its function that gives the text of an error
}

//go:uintptrescapes
func (e entry) call(name string, args ...uintptr) error {
	_, err := e.try(name, args...)
	return err
}

//go:uintptrescapes
func (e entry) try(name string, args ...uintptr) (code int32, err error) {
	f, err := purego.Dlsym(e.library, name)
	if err != nil {
		return -1, err
	}
	r, _, _ := purego.SyscallN(f, args...)
	if code = int32(r); code != 0 {
		return code, fmt.Errorf("%s: %s (error %d)", name, e.text(code), code)
	}
	return 0, nil
}

// text is the library's word for an error.
func (e entry) text(code int32) string {
	f, err := purego.Dlsym(e.library, e.describe)
	if err != nil {
		return "failed"
	}
	var p *byte
	if e.describe == "cuGetErrorString" {
		purego.SyscallN(f, uintptr(code), uintptr(unsafe.Pointer(&p))) // leaves p nil for a code it does not know
	} else {
		r, _, _ := purego.SyscallN(f, uintptr(code))
		p = *(**byte)(unsafe.Pointer(&r))
	}
	if p == nil {
		return "failed"
	}
	const most = 256
	n := 0
	for n < most && *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}

func upToZero(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

func gib(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }
