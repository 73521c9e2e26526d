package pjrt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ebitengine/purego"
)

// built is the fake plugin, compiled once.
var built = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "fake-pjrt-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "fake.so")
	if out, err := exec.Command("gcc", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread", "-o", path, "testdata/fake.c").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(path)
})

// fake is a plugin of one test's own: its library is loaded apart from that of other tests.
type fake struct {
	path       string
	set        func(name, value string)
	live       func() int32
	violations func() string
}

// newFake makes a plugin with settings "name", "value", ... When the test ends, it must have nothing to complain of.
func newFake(t *testing.T, settings ...string) *fake {
	t.Helper()
	f := newUnwatchedFake(t, settings...)
	t.Cleanup(func() {
		if v := f.violations(); v != "" {
			t.Errorf("the plugin complains: %s", v)
		}
		if n := f.live(); n != 0 {
			t.Errorf("%d objects of the plugin are left", n)
		}
	})
	return f
}

func newUnwatchedFake(t *testing.T, settings ...string) *fake {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc to build the fake plugin with")
	}
	library, err := built()
	if err != nil {
		t.Fatalf("building the fake plugin: %v", err)
	}
	f := &fake{path: filepath.Join(t.TempDir(), "plugin.so")}
	if err := os.WriteFile(f.path, library, 0o700); err != nil {
		t.Fatal(err)
	}
	handle, err := purego.Dlopen(f.path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		t.Fatal(err)
	}
	purego.RegisterLibFunc(&f.set, handle, "fake_set")
	purego.RegisterLibFunc(&f.live, handle, "fake_live")
	purego.RegisterLibFunc(&f.violations, handle, "fake_violations")
	for i := 0; i+1 < len(settings); i += 2 {
		f.set(settings[i], settings[i+1])
	}
	return f
}

// open loads the plugin and takes its devices.
func (f *fake) open(t *testing.T, options ...Option) *Client {
	t.Helper()
	p, err := Load(f.path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.NewClient(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
