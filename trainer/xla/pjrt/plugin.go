package pjrt

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// Plugin is a loaded plugin.
type Plugin struct {
	path         string
	major, minor int
	newer        bool // than newestMinor
	table        [functions]uintptr
	attributes   map[string]string
}

// plugins holds what is loaded: a library is initialised once in a process, and never unloaded.
var plugins = struct {
	sync.Mutex
	byPath map[string]*Plugin
}{byPath: map[string]*Plugin{}}

// Load opens a plugin and checks its version. Loading it again gives the same one.
func Load(path string) (*Plugin, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("loading the PJRT plugin %s: %w", path, err)
	}
	plugins.Lock()
	defer plugins.Unlock()
	if p := plugins.byPath[full]; p != nil {
		return p, nil
	}
	p, err := load(full)
	if err != nil {
		return nil, fmt.Errorf("loading the PJRT plugin %s: %w", path, err)
	}
	plugins.byPath[full] = p
	return p, nil
}

// OpenLibrary is purego.Dlopen on one thread: the system tells what went wrong to the thread that asked, and elsewhere the error
// says nothing.
func OpenLibrary(path string, mode int) (uintptr, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return purego.Dlopen(path, mode)
}

func load(path string) (*Plugin, error) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		return nil, errors.New("plugins are for 64-bit machines only")
	}
	library, err := OpenLibrary(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, err
	}
	entry, err := purego.Dlsym(library, "GetPjrtApi")
	if err != nil {
		return nil, fmt.Errorf("it is no PJRT plugin: %w", err)
	}
	at, _, _ := purego.SyscallN(entry)
	if at == 0 {
		return nil, errors.New("it gave no table of functions")
	}
	p := &Plugin{path: path}
	if err := p.readTable(foreign(at)); err != nil {
		return nil, err
	}
	if err := call(p, pluginInitialize, &noArgs{}); err != nil {
		return nil, err
	}
	p.attributes, err = p.readAttributes()
	return p, err
}

// foreign makes a pointer of an address outside Go's memory.
func foreign(at uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&at)) }

func (p *Plugin) readTable(at unsafe.Pointer) error {
	head := (*tableHead)(at)
	p.major, p.minor = int(head.version.major), int(head.version.minor)
	switch {
	case p.major != major:
		return &VersionError{Major: p.major, Minor: p.minor, Newer: p.major > major}
	case p.minor < oldestMinor:
		return &VersionError{Major: p.major, Minor: p.minor}
	}
	p.newer = p.minor > newestMinor
	const first = unsafe.Sizeof(tableHead{})
	if head.size < first {
		return fmt.Errorf("its table of functions has %d bytes", head.size)
	}
	copy(p.table[:], unsafe.Slice((*uintptr)(unsafe.Add(at, first)), min((head.size-first)/unsafe.Sizeof(uintptr(0)), functions)))
	for f := range names {
		if p.table[f] == 0 && !optional[f] {
			return fmt.Errorf("its table, of %d bytes, lacks %v", head.size, f)
		}
	}
	return nil
}

// VersionError says that a plugin speaks a version of the C API that this client does not.
type VersionError struct {
	Major, Minor int // the plugin's
	Newer        bool
}

func (e *VersionError) Error() string {
	age, remedy := "old", "install a newer plugin"
	if e.Newer {
		age, remedy = "new", "install an older plugin, or a newer version of this program"
	}
	return fmt.Sprintf("it is too %s: it speaks version %d.%d of the PJRT C API, and this program %d.%d and newer minor versions; %s",
		age, e.Major, e.Minor, major, oldestMinor, remedy)
}

// Path is the file that was loaded.
func (p *Plugin) Path() string { return p.path }

// Version is that of the C API that the plugin speaks: "0.104".
func (p *Plugin) Version() string { return fmt.Sprintf("%d.%d", p.major, p.minor) }

// Attributes are what the plugin says of itself, such as xla_version and stablehlo_current_version.
func (p *Plugin) Attributes() map[string]string { return p.attributes }

func (p *Plugin) readAttributes() (map[string]string, error) {
	var args attributesArgs
	if err := call(p, pluginAttributes, &args); err != nil {
		return nil, err
	}
	out := map[string]string{}
	if args.attributes != nil {
		for _, v := range unsafe.Slice(args.attributes, min(args.count, maxAttributes)) {
			out[v.name.String()] = v.String()
		}
	}
	return out, nil
}

const maxAttributes = 1024

// call calls a function with its arguments, which begin with a header, and puts what it gave into them.
func call[T any](p *Plugin, f function, args *T) error {
	if p.table[f] == 0 {
		return &Error{Function: f.String(), Code: Unimplemented, Text: "the plugin, of version " + p.Version() + " of the C API, has no such function"}
	}
	block := pad(p, *args)
	err, _, _ := purego.SyscallN(p.table[f], uintptr(unsafe.Pointer(block)))
	*args = block.args
	if err != 0 {
		return p.takeError(f, handle(err))
	}
	return nil
}
