package gpu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ebitengine/purego"

	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/trainer/xla/pjrt/pjrttest"
)

// machine is a System in a folder of the test's own: a driver, a virtual environment with a plugin, and NVIDIA's
// libraries, all of them fakes.
type machine struct {
	System
	env    map[string]string
	site   string // folder of Python packages
	driver *pjrttest.Driver
	plugin *pjrttest.Plugin
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{env: map[string]string{"VIRTUAL_ENV": filepath.Join(dir, "venv")}}
	m.site = filepath.Join(dir, "venv/lib/python3.12/site-packages")
	m.driver = pjrttest.NewDriver(t, filepath.Join(dir, "driver/libcuda.so.1"))
	m.plugin = pjrttest.New(t, filepath.Join(m.site, "jax_plugins/xla_cuda13/xla_cuda_plugin.so"))
	m.System = System{Getenv: func(name string) string { return m.env[name] }, Root: filepath.Join(dir, "root"), Driver: m.driver.Path, Manager: m.driver.Path}
	for _, l := range libraries[13] {
		if !l.optional {
			m.library(t, l.name)
		}
	}
	return m
}

// library makes an empty library of NVIDIA's that needs others of the same folder.
func (m *machine) library(t *testing.T, name string, needed ...string) {
	t.Helper()
	dir := filepath.Join(m.site, "nvidia/cu13/lib")
	if name == "libcudnn.so.9" {
		dir = filepath.Join(m.site, "nvidia/cudnn/lib")
	}
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if len(needed) == 0 {
		if kept := empty[name]; kept != nil {
			if err := os.WriteFile(path, kept, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	args := []string{"-shared", "-fPIC", "-nostdlib", "-x", "c", "/dev/null", "-x", "none", "-Wl,--no-as-needed,-soname," + name, "-o", path}
	for _, n := range needed {
		args = append(args, filepath.Join(dir, n))
	}
	if out, err := exec.CommandContext(t.Context(), "gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v: %s", name, err, out)
	}
	if len(needed) == 0 {
		built, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		empty[name] = built
	}
}

// empty keeps libraries that were built.
var empty = map[string][]byte{}

func (m *machine) remove(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		found, err := filepath.Glob(filepath.Join(m.site, "nvidia/*/lib", name))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %v, %v", name, found, err)
		}
		if err := os.Remove(found[0]); err != nil {
			t.Fatal(err)
		}
	}
}

const adds = "fake: f32 2 = add 0 1 alias 0\nfake: i32 scalar = zero 0\n"

var (
	pair   = xla.Type{DType: xla.F32, Dims: []int{2}}
	module = xla.Module{
		Name: "sums", Text: adds, Args: []xla.Type{pair, pair}, Results: []xla.Type{pair, {DType: xla.S32}}, Donated: map[int]int{0: 0},
	}
)

func floats(xs ...float32) []byte {
	var out []byte
	for _, x := range xs {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
	}
	return out
}

// work does a sum on a device, and gives everything back but the device.
func work(ctx context.Context, d xla.Device) (got []byte, err error) {
	var opened []interface{ Close() error }
	defer func() {
		for _, o := range slices.Backward(opened) {
			err = errors.Join(err, o.Close(), o.Close())
		}
	}()
	p, err := d.Compile(ctx, module)
	if err != nil {
		return nil, err
	}
	opened = append(opened, p)
	var args []xla.Buffer
	for _, data := range [][]byte{floats(1, 2), floats(30, 40)} {
		b, err := d.Upload(ctx, pair, data)
		if err != nil {
			return nil, err
		}
		opened = append(opened, b)
		clear(data) // it may be changed
		args = append(args, b)
	}
	results, err := p.Run(ctx, args)
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		opened = append(opened, r)
	}
	if k := results[1].Type(); k.DType != xla.S32 || len(k.Dims) != 0 {
		return nil, fmt.Errorf("the second result is a %v", k)
	}
	if err := results[0].Wait(ctx); err != nil {
		return nil, err
	}
	got = make([]byte, pair.Bytes())
	return got, results[0].Download(ctx, got)
}

func open(t *testing.T, m *machine, o Options) *Device {
	t.Helper()
	d, err := m.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestAGPU(t *testing.T) {
	m := newMachine(t)
	m.driver.Set("cards", 3)
	m.plugin.Set("devices", "3")
	m.plugin.Set("threads", "1")
	d := open(t, m, Options{Index: 2})
	if d.Name() != "Fake 1000 (fake 2)" || d.Client().Plugin().Path() != m.plugin.Path {
		t.Errorf("name %s of %s", d.Name(), d.Client().Plugin().Path())
	}
	if free, total, ok := d.Memory(); !ok || free != 1<<30 || total != 1<<30 {
		t.Errorf("memory %d of %d, %v", free, total, ok)
	}
	if got, err := work(t.Context(), d); err != nil || !bytes.Equal(got, floats(31, 42)) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		what   string
		damage func(*testing.T, *machine, *Options)
		says   string // in the error
		remedy string // in what to do
	}{
		{"driver", func(_ *testing.T, m *machine, _ *Options) { m.Driver = filepath.Join(m.Root, "libcuda.so.1") },
			"no working NVIDIA driver: ", "docker run --gpus all"},
		{"driver that fails", func(_ *testing.T, m *machine, _ *Options) { m.driver.Set("init", 999) },
			"no working NVIDIA driver: cuInit: unknown error (error 999)", "nvidia-smi"},
		{"driver of another kernel module", func(_ *testing.T, m *machine, _ *Options) { m.driver.Set("init", 803) },
			"unsupported display driver / cuda driver combination", "restart"},
		{"driver without a GPU", func(_ *testing.T, m *machine, _ *Options) { m.driver.Set("init", 100) },
			"there is no gpu:0: the driver shows no GPU", "CUDA_VISIBLE_DEVICES"},
		{"device", func(_ *testing.T, m *machine, o *Options) { m.driver.Set("cards", 2); o.Index = 5 },
			"there is no gpu:5: the driver shows gpu:0 Fake 100, 80.0 GiB; gpu:1 Fake 101, 80.0 GiB", "use gpu:0 to gpu:1"},
		{"plugin", func(t *testing.T, m *machine, _ *Options) {
			if err := os.Remove(m.plugin.Path); err != nil {
				t.Fatal(err)
			}
		}, "there is none in ", "pip install -U 'jax-cuda13-plugin[with-cuda]'"},
		{"plugin for this driver", func(_ *testing.T, m *machine, _ *Options) { m.driver.Set("version", 12080) },
			"no PJRT plugin for this driver, which runs CUDA 12", "pip install -U 'jax-cuda12-plugin[with-cuda]'"},
		{"plugin for this driver, though named", func(_ *testing.T, m *machine, o *Options) {
			m.driver.Set("version", 12080)
			o.Plugin = m.plugin.Path
		}, "is for CUDA 13, and the driver runs CUDA 12.8", "update the driver, or: pip install -U 'jax-cuda12-plugin[with-cuda]'"},
		{"plugin, that the flag names", func(_ *testing.T, m *machine, o *Options) { o.Plugin = filepath.Join(m.site, "none.so") },
			"the PJRT plugin that --pjrt-plugin names: ", ""},
		{"plugin, that the environment names", func(_ *testing.T, m *machine, _ *Options) { m.env[PluginEnv] = m.site },
			"the PJRT plugin that PJRT_PLUGIN_LIBRARY_PATH names, ", ""},
		{"newer plugin", func(_ *testing.T, m *machine, _ *Options) { m.plugin.Set("minor", "12") },
			"it is too old: it speaks version 0.12", "pip install -U 'jax-cuda13-plugin[with-cuda]'"},
		{"older plugin", func(_ *testing.T, m *machine, _ *Options) { m.plugin.Set("major", "2") },
			"it is too new: it speaks version 2.104", "older plugin"},
		{"memory", func(_ *testing.T, m *machine, _ *Options) { m.driver.Set("free", 100<<20) },
			"gpu:0 Fake 100, 80.0 GiB is in use: 0.1 GiB are free, and 1.0 GiB are needed at least", "nvidia-smi names the processes"},
		{"large GPU", func(_ *testing.T, m *machine, _ *Options) { m.driver.Set("total", 512<<20) },
			"is too small: 1.0 GiB are needed", "larger GPU"},
		{"plugin that finds the GPU", func(_ *testing.T, m *machine, _ *Options) { m.plugin.Set("devices", "0") },
			"FAILED_PRECONDITION: no supported devices found for platform CUDA", ""},
		{"memory, as the plugin finds", func(_ *testing.T, m *machine, _ *Options) {
			m.plugin.Set("fail", "PJRT_Client_Create")
			m.plugin.Set("fail_code", "8")
		}, "RESOURCE_EXHAUSTED: PJRT_Client_Create fails", "end what else uses the GPU"},
		{"sense", func(_ *testing.T, _ *machine, o *Options) { o.Index = -1 }, "index -1", ""},
		{"sense in the fraction", func(_ *testing.T, _ *machine, o *Options) { o.Fraction = math.NaN() }, "memory fraction NaN", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			m := newMachine(t)
			var o Options
			c.damage(t, m, &o)
			d, err := m.Open(o)
			if err == nil {
				t.Fatal(d.Close())
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("says %v, want %q", err, c.says)
			}
			if r := Remedy(err); !strings.Contains(r, c.remedy) || (r == "") != (c.remedy == "") {
				t.Errorf("remedy %q, want %q", r, c.remedy)
			}
			// Asked for, it is an error; left to choose, it is a reason for the CPU.
			if _, _, err := m.Choose(Choice{GPU: true, Index: o.Index}, o); err == nil || !strings.Contains(err.Error(), c.remedy) {
				t.Errorf("choosing the GPU: %v", err)
			}
			if d, why, err := m.Choose(Choice{Auto: true}, o); d != nil || err != nil || !strings.Contains(why, c.says) || !strings.Contains(why, c.remedy) {
				t.Errorf("choosing freely: %v, %q, %v", d, why, err)
			}
		})
	}
}

// Libraries that are missing are named all at once. What is open in a process is found by its name, so this needs a process
// in which no test opened them.
func TestMissingLibraries(t *testing.T) {
	const alone = "SURMISE_TEST_ALONE"
	if os.Getenv(alone) == "" {
		self := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMissingLibraries$", "-test.v")
		self.Env = append(os.Environ(), alone+"=1")
		if out, err := self.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(": TestMissingLibraries")) {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	if _, err := purego.Dlopen("libcublas.so.13", purego.RTLD_LAZY|purego.RTLD_LOCAL); err == nil {
		t.Skip("this machine has NVIDIA's libraries")
	}
	m := newMachine(t)
	m.remove(t, "libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9")
	_, err := m.Open(Options{})
	if err == nil || !strings.Contains(err.Error(), "needs libcublas.so.13, libcublasLt.so.13, libcudnn.so.9: ") {
		t.Errorf("says %v", err)
	}
	if r := Remedy(err); r != "pip install -U nvidia-cublas nvidia-cudnn-cu13, where the plugin is" {
		t.Errorf("remedy %q", r)
	}
}

func TestChoosing(t *testing.T) {
	m := newMachine(t)
	for s, want := range map[string]struct {
		choice Choice
		gpu    bool
	}{"": {Choice{Auto: true}, true}, "auto": {Choice{Auto: true}, true}, "cpu": {Choice{}, false}, "gpu": {Choice{GPU: true}, true}, "gpu:0": {Choice{GPU: true}, true}} {
		c, err := ParseChoice(s)
		if err != nil || c != want.choice {
			t.Errorf("%q: %v, %v", s, c, err)
			continue
		}
		if again, err := ParseChoice(c.String()); err != nil || again != c {
			t.Errorf("%q is written as %q", s, c)
		}
		d, why, err := m.Choose(c, Options{})
		if err != nil || (d != nil) != want.gpu || why != "" {
			t.Errorf("%q: %v, %q, %v", s, d, why, err)
		}
		if d != nil {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if c, err := ParseChoice("gpu:12"); err != nil || c != (Choice{GPU: true, Index: 12}) {
		t.Errorf("gpu:12 is %v, %v", c, err)
	}
	for _, s := range []string{"tpu", "gpu:", "gpu:-1", "gpu:+1", "gpu:01", "gpu:256", "gpu:x", "GPU", "cpu:0", " gpu"} {
		if _, err := ParseChoice(s); err == nil || !strings.Contains(err.Error(), "want auto, cpu, gpu or gpu:N") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// The order of places to look: the flag, the environment variable, environments of Python, the system.
func TestFindingAPlugin(t *testing.T) {
	dir := t.TempDir()
	file := func(parts ...string) string {
		t.Helper()
		path := filepath.Join(append([]string{dir}, parts...)...)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o700)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plugin := func(prefix, module string) string {
		return file(prefix, "jax_plugins", module, "xla_cuda_plugin.so")
	}
	env := map[string]string{}
	s := System{Getenv: func(n string) string { return env[n] }, Root: filepath.Join(dir, "root")}

	var none *NoPluginError
	if _, err := s.Find("", 0); !errors.As(err, &none) || !strings.Contains(err.Error(), "there is no Python") {
		t.Errorf("on an empty machine: %v", err)
	}
	type step struct {
		from, path string
		cuda       int
	}
	var steps []step
	found := func(from, path string, cuda int) { steps = append(steps, step{from, path, cuda}) }
	check := func() {
		t.Helper()
		want := steps[len(steps)-1]
		got, err := s.Find(env["flag"], 0)
		if err != nil || got.Path != want.path || !strings.HasSuffix(got.From, want.from) || got.CUDA != want.cuda {
			t.Errorf("found %+v, %v; want %+v", got, err, want)
		}
	}
	found("root/usr/lib/python3/dist-packages", plugin("root/usr/lib/python3/dist-packages", "xla_cuda12"), 12)
	check()
	found("root/usr/local/lib/python3.11/site-packages", plugin("root/usr/local/lib/python3.11/site-packages", "xla_cuda12"), 12)
	check()
	// The python3 in PATH is a link, as in a virtual environment that is not active; its target has packages too.
	found("elsewhere/lib/python3.12/site-packages", plugin("elsewhere/lib/python3.12/site-packages", "xla_cuda12"), 12)
	real := file("elsewhere/bin/python3.12")
	env["PATH"] = filepath.Join(dir, "none") + ":" + filepath.Join(dir, "linked/bin")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "linked/bin"), 0o700), os.Symlink(real, filepath.Join(dir, "linked/bin/python3"))); err != nil {
		t.Fatal(err)
	}
	check()
	found("linked/lib/python3.12/site-packages", plugin("linked/lib/python3.12/site-packages", "xla_cuda12"), 12)
	check()
	env["HOME"] = filepath.Join(dir, "home")
	found("home/.local/lib/python3.12/site-packages", plugin("home/.local/lib/python3.12/site-packages", "xla_cuda12"), 12)
	check()
	env["CONDA_PREFIX"] = filepath.Join(dir, "conda")
	found("conda/lib/python3.10/site-packages", plugin("conda/lib/python3.10/site-packages", "xla_cuda12"), 12)
	check()
	env["VIRTUAL_ENV"] = filepath.Join(dir, "venv")
	found("venv/lib/python3.12/site-packages", plugin("venv/lib/python3.12/site-packages", "xla_cuda12"), 12)
	check()
	env["PYTHONPATH"] = filepath.Join(dir, "extra")
	found("extra", plugin("extra", "xla_cuda12"), 12)
	check()
	// A newer one is preferred wherever it lies, unless the driver cannot run it.
	older := steps[len(steps)-1]
	found("root/usr/local/lib/python3.11/site-packages", plugin("root/usr/local/lib/python3.11/site-packages", "xla_cuda13"), 13)
	check()
	if got, err := s.Find("", 12); err != nil || got.Path != older.path {
		t.Errorf("for CUDA 12: %+v, %v", got, err)
	}
	if _, err := s.Find("", 11); !errors.As(err, &none) || len(none.TooNew) < 2 {
		t.Errorf("for CUDA 11: %v", err)
	}
	env[PluginEnv] = file("anywhere/plugin.so")
	found(PluginEnv, env[PluginEnv], 0)
	check()
	env["flag"] = plugin("by-hand", "xla_cuda13")
	found("--pjrt-plugin", env["flag"], 13)
	check()
}

// NVIDIA's libraries are opened after those that they need, whatever the order of the list.
func TestOrderOfLibraries(t *testing.T) {
	m := newMachine(t)
	m.library(t, "libcusolver.so.12", "libcusparse.so.12", "libcublas.so.13")
	m.library(t, "libcusparse.so.12", "libnvJitLink.so.13")
	m.library(t, "libcublas.so.13", "libcublasLt.so.13")
	var backwards []library
	paths := map[string]string{}
	for _, l := range slices.Backward(libraries[13]) {
		backwards = append(backwards, l)
		paths[l.name] = filepath.Join(m.site, "nvidia/cu13/lib", l.name)
	}
	var names []string
	for _, l := range inOrder(backwards, paths) {
		names = append(names, l.name)
	}
	if len(names) != len(backwards) {
		t.Fatalf("%d libraries of %d: %v", len(names), len(backwards), names)
	}
	for _, pair := range [][2]string{{"libcublasLt.so.13", "libcublas.so.13"}, {"libcublas.so.13", "libcusolver.so.12"},
		{"libnvJitLink.so.13", "libcusparse.so.12"}, {"libcusparse.so.12", "libcusolver.so.12"}} {
		if slices.Index(names, pair[0]) > slices.Index(names, pair[1]) {
			t.Errorf("%s after %s: %v", pair[0], pair[1], names)
		}
	}
	d := open(t, m, Options{})
	if got, err := work(t.Context(), d); err != nil || !bytes.Equal(got, floats(31, 42)) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestTheCompilersFolder(t *testing.T) {
	m := newMachine(t)
	p := Plugin{Path: m.plugin.Path, CUDA: 13}
	if got := p.dataFolder(); got != "" {
		t.Errorf("nothing is there, found %s", got)
	}
	for _, dir := range []string{"jax_cuda13_plugin", "nvidia/cuda_nvcc", "nvidia/cu13"} { // from the last place to the first
		bc := filepath.Join(m.site, dir, "nvvm/libdevice/libdevice.10.bc")
		if err := errors.Join(os.MkdirAll(filepath.Dir(bc), 0o700), os.WriteFile(bc, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		want := filepath.Join(m.site, dir)
		if got := p.dataFolder(); got != want {
			t.Errorf("found %s, want %s", got, want)
		}
	}
	d := open(t, m, Options{Overrides: map[string]any{"xla_gpu_autotune_level": int64(2)}})
	if d.overrides["xla_gpu_cuda_data_dir"] != filepath.Join(m.site, "nvidia/cu13") || d.overrides["xla_gpu_autotune_level"] != int64(2) {
		t.Errorf("overrides %v", d.overrides)
	}
	if got := (Plugin{Path: "/opt/plugin.so"}).dataFolder(); got != "" {
		t.Errorf("outside of packages, found %s", got)
	}
}

func TestHowMuchMemoryIsTaken(t *testing.T) {
	m := newMachine(t)
	card := Card{Total: 80 << 30, Bus: "0000:64:00.0"}
	for _, c := range []struct {
		free  int64
		asked float64
		want  float64
	}{{79 << 30, 0, 0.9}, {40 << 30, 0, 0.475}, {40 << 30, 0.8, 0.8}} {
		m.driver.Set("free", c.free)
		if got, err := m.fraction(card, c.asked); err != nil || math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%d free, %g asked for: %g, %v; want %g", c.free, c.asked, got, err, c.want)
		}
	}
	// Where nobody tells what is free, the plugin will.
	m.driver.Set("managed", 9)
	if got, err := m.fraction(card, 0); err != nil || got != 0.9 {
		t.Errorf("%g, %v", got, err)
	}
	if _, err := m.Free(card); err == nil || !strings.Contains(err.Error(), "nvmlInit_v2: Driver Not Loaded (error 9)") {
		t.Errorf("%v", err)
	}
	m.Manager = filepath.Join(m.Root, "none.so")
	if got, err := m.fraction(card, 0); err != nil || got != 0.9 {
		t.Errorf("%g, %v", got, err)
	}
}

func TestOutOfMemoryNamesSizes(t *testing.T) {
	m := newMachine(t)
	m.plugin.Set("limit", "30")
	d := open(t, m, Options{})
	ctx := t.Context()
	p, err := d.Compile(ctx, module)
	if err != nil {
		t.Fatal(err)
	}
	var args []xla.Buffer
	for range 3 {
		b, err := d.Upload(ctx, pair, floats(1, 2))
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, b)
	}
	check := func(what string, wanted, free int64, err error) {
		t.Helper()
		var out *xla.OutOfMemoryError
		if !errors.As(err, &out) || out.What != what || out.Wanted != wanted || out.Free != free || out.Total != 30 {
			t.Errorf("%+v (%v), want %s, %d", out, err, what, wanted)
		}
	}
	_, err = d.Upload(ctx, pair, floats(1, 2))
	check("a tensor tensor<2xf32>", 8, 6, err)
	m.plugin.Set("limit", "24")
	_, err = p.Run(ctx, args[:2])
	var out *xla.OutOfMemoryError
	if !errors.As(err, &out) || out.What != "running sums" || out.Wanted != 4 || out.Total != 24 {
		t.Errorf("%+v (%v)", out, err)
	}
	// It may show only when the run is under way.
	m.plugin.Set("limit", "100")
	m.plugin.Set("run_error", "Out of memory while trying to allocate 70 bytes.")
	m.plugin.Set("run_code", "8")
	results, err := p.Run(ctx, args[:2])
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{results[0].Wait(ctx), results[0].Download(ctx, make([]byte, 8))} {
		if !errors.As(err, &out) || out.What != "running sums" || out.Wanted != 70 || out.Total != 100 {
			t.Errorf("%+v (%v)", out, err)
		}
	}
	m.plugin.Set("fail", "PJRT_Client_Compile")
	m.plugin.Set("fail_code", "8")
	big := module
	big.Reserved = 12345
	_, err = d.Compile(ctx, big)
	if !errors.As(err, &out) || out.What != "compiling sums" || out.Wanted != 12345 {
		t.Errorf("%+v (%v)", out, err)
	}
	for _, b := range append(args, results...) {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestProgramsThatDoNotFit(t *testing.T) {
	m := newMachine(t)
	d := open(t, m, Options{})
	other := module
	other.Results = other.Results[:1]
	if _, err := d.Compile(t.Context(), other); err == nil || !strings.Contains(err.Error(), "the program gives 2 results, want 1") {
		t.Errorf("%v", err)
	}
	if _, err := d.Upload(t.Context(), xla.Type{DType: "f8"}, nil); err == nil || !strings.Contains(err.Error(), "no such element type") {
		t.Errorf("%v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Compile(ended, module); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	p, err := d.Compile(t.Context(), module)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(t.Context(), []xla.Buffer{nil, nil}); err == nil || !strings.Contains(err.Error(), "argument 0 is of another device") {
		t.Errorf("%v", err)
	}
	if memory, ok := p.Memory(); !ok || memory.Results != 12 || memory.Aliased != 8 || memory.Temporary != 4096 {
		t.Errorf("memory %+v, %v", memory, ok)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// A plugin whose compiler has lost an option that we set compiles without it.
func TestAnOptionThatIsGone(t *testing.T) {
	m := newMachine(t)
	m.plugin.Set("unknown_option", "xla_gpu_enable_triton_gemm")
	d := open(t, m, Options{})
	for range 2 {
		p, err := d.Compile(t.Context(), module)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	// One that was asked for is an error.
	d = open(t, m, Options{Overrides: map[string]any{"xla_of_a_user": true}})
	m.plugin.Set("unknown_option", "xla_of_a_user")
	if _, err := d.Compile(t.Context(), module); err == nil || !strings.Contains(err.Error(), "No such compile option: 'xla_of_a_user'") {
		t.Errorf("%v", err)
	}
}

// A tensor too large to be copied first has been sent when Upload returns.
func TestALargeTensor(t *testing.T) {
	m := newMachine(t)
	m.plugin.Set("threads", "1")
	d := open(t, m, Options{})
	d.copied = 7
	data := floats(3, 4)
	b, err := d.Upload(t.Context(), pair, data)
	if err != nil {
		t.Fatal(err)
	}
	clear(data) // the plugin complains if it was not over
	got := make([]byte, 8)
	if err := b.Download(t.Context(), got); err != nil || !bytes.Equal(got, floats(3, 4)) {
		t.Errorf("got %v, %v", got, err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
