// Package pjrttest makes a PJRT plugin, and a driver of NVIDIA's, for tests on machines without a GPU. Both are written in
// C, are built when a test needs them, and watch their caller: see testdata/plugin.c and testdata/driver.c.
package pjrttest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ebitengine/purego"
)

//go:embed testdata/plugin.c
var pluginSource []byte

//go:embed testdata/driver.c
var driverSource []byte

var (
	builtPlugin = sync.OnceValues(func() ([]byte, error) { return build(pluginSource) })
	builtDriver = sync.OnceValues(func() ([]byte, error) { return build(driverSource) })
)

// Plugin is a plugin of one test's own: its library is loaded apart from that of other tests.
type Plugin struct {
	Path string
	// Set changes a setting; plugin.c lists them. Other processes take theirs from PJRTTEST_SETTINGS: "name=value,…".
	Set func(name, value string)
	// Live counts the objects that were not destroyed.
	Live func() int32
	// Violations are what the caller did wrong, a line each.
	Violations func() string
}

// New makes a plugin at path, with settings "name", "value", ... When the test ends, it must have nothing to complain of.
func New(t testing.TB, path string, settings ...string) *Plugin {
	t.Helper()
	p := NewUnwatched(t, path, settings...)
	t.Cleanup(func() {
		if v := p.Violations(); v != "" {
			t.Errorf("the plugin complains: %s", v)
		}
		if n := p.Live(); n != 0 {
			t.Errorf("%d objects of the plugin are left", n)
		}
	})
	return p
}

// NewUnwatched makes a plugin whose complaints are the test's to read.
func NewUnwatched(t testing.TB, path string, settings ...string) *Plugin {
	t.Helper()
	handle := install(t, path, builtPlugin)
	p := &Plugin{Path: path}
	purego.RegisterLibFunc(&p.Set, handle, "fake_set")
	purego.RegisterLibFunc(&p.Live, handle, "fake_live")
	purego.RegisterLibFunc(&p.Violations, handle, "fake_violations")
	for i := 0; i+1 < len(settings); i += 2 {
		p.Set(settings[i], settings[i+1])
	}
	return p
}

// Driver is a driver, and the library that tells what GPUs are doing, in one file.
type Driver struct {
	Path string
	// Set changes a setting; driver.c lists them.
	Set func(name string, value int64)
}

// NewDriver makes a driver at path.
func NewDriver(t testing.TB, path string) *Driver {
	t.Helper()
	handle := install(t, path, builtDriver)
	d := &Driver{Path: path}
	purego.RegisterLibFunc(&d.Set, handle, "fake_driver_set")
	return d
}

// install writes a library and opens it. Copies of one library are apart from one another.
func install(t testing.TB, path string, built func() ([]byte, error)) uintptr {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc to build the library with")
	}
	library, err := built()
	if err != nil {
		t.Fatalf("building %s: %v", filepath.Base(path), err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, library, 0o600)); err != nil {
		t.Fatal(err)
	}
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		t.Fatal(err)
	}
	return handle
}

func build(source []byte) (library []byte, err error) {
	dir, err := os.MkdirTemp("", "pjrttest-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	in, out := filepath.Join(dir, "source.c"), filepath.Join(dir, "library.so")
	if err := os.WriteFile(in, source, 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	said, err := exec.CommandContext(ctx, "gcc", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread", "-o", out, in).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, said)
	}
	return os.ReadFile(out)
}
