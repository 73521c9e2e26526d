package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

var noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

// sound is a machine on which nothing is wrong.
func sound() (Options, Probes, fstest.MapFS) {
	root := fstest.MapFS{
		"sys/kernel/mm/transparent_hugepage/enabled": file("always [madvise] never\n"),
		"proc/self/maps": file("7f0000000000-7f0000001000 r-xp 00000000 08:01 11 /usr/lib/x86_64-linux-gnu/libopencv_core.so.4.6.0\n" +
			"7f0000001000-7f0000002000 r-xp 00000000 08:01 12 /usr/lib/x86_64-linux-gnu/libavcodec.so.59.37.100\n" +
			"7f0000002000-7f0000003000 rw-p 00000000 00:00 0\n" +
			"7f0000003000-7f0000004000 r-xp 00000000 08:01 13 /usr/lib/x86_64-linux-gnu/libdnnl.so.2.6\n"),
	}
	return Options{DataDir: "/data/state", TempDir: "/tmp", Server: "coordinator:7433"}, Probes{
		Root:       root,
		Features:   func() string { return "AVX-512, oneDNN 2.6" },
		Kernels:    func() error { return nil },
		Native:     true,
		NativeBF16: func() bool { return true },
		Cores:      func() int { return 8 },
		Threads:    func() int { return 8 },
		Memory:     func() (int64, bool) { return 16 << 30, true },
		Space: func(folder string) (int64, error) {
			if folder == "/data/state" { // made by the first run
				return 0, os.ErrNotExist
			}
			return 100 << 30, nil
		},
		Write:   func(string) error { return nil },
		Synced:  func() (bool, error) { return true, nil },
		Command: func(context.Context, string, ...string) (string, error) { return "", errors.New("not installed") },
		OpenGPU: func(context.Context) (GPU, error) {
			return GPU{Plugin: "/venv/xla_cuda_plugin.so", From: "/venv", API: "0.104", XLA: "2", Platform: "PJRT\ncuda 13000", Device: "NVIDIA H200 (cuda 0)", Limit: 126 << 30}, nil
		},
		Decode: func(context.Context) (int, error) { return ClipFrames, nil },
		Ask: func(context.Context, string) (Answer, error) {
			return Answer{Serving: true, Asked: noon, Answered: noon.Add(4 * time.Millisecond), Time: noon.Add(3 * time.Millisecond)}, nil
		},
		Now: func() time.Time { return noon },
	}, root
}

func TestASoundMachine(t *testing.T) {
	o, p, _ := sound()
	checks := Examine(t.Context(), o, p)
	for _, c := range checks {
		if c.Status != OK || c.Value == "" || c.Remedy != "" {
			t.Errorf("%+v", c)
		}
	}
	if len(checks) != 16 || Failed(checks) != 0 {
		t.Errorf("%d checks, %d failed", len(checks), Failed(checks))
	}
	o.Server = ""
	if n := len(Examine(t.Context(), o, p)); n != 14 {
		t.Errorf("%d checks without a coordinator", n)
	}
}

// Each fault shows in the check of its name, as bad as it is, and says what to do; no other check minds.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		check  string
		status Status
		says   string // in value or remedy
		damage func(*Options, *Probes, fstest.MapFS)
	}{
		{"processor", Warn, "nonative", func(_ *Options, p *Probes, _ fstest.MapFS) { p.Native = false }},
		{"processor", Fail, "unset it", func(_ *Options, p *Probes, _ fstest.MapFS) {
			p.Kernels = func() error { return errors.New("SURMISE_KERNELS is amx, which this processor does not have") }
		}},
		{"processor", Warn, "AVX2", func(_ *Options, p *Probes, _ fstest.MapFS) { p.Features = func() string { return "baseline" } }},
		{"threads", Warn, "2 of 8 cores", func(_ *Options, p *Probes, _ fstest.MapFS) { p.Threads = func() int { return 2 } }},
		{"memory", Fail, "100 MiB", func(_ *Options, p *Probes, _ fstest.MapFS) {
			p.Memory = func() (int64, bool) { return 100 << 20, true }
		}},
		{"memory", Warn, "1.0 GiB", func(_ *Options, p *Probes, _ fstest.MapFS) {
			p.Memory = func() (int64, bool) { return 1 << 30, true }
		}},
		{"memory", Warn, "does not say", func(_ *Options, p *Probes, _ fstest.MapFS) {
			p.Memory = func() (int64, bool) { return 0, false }
		}},
		{"huge pages", Warn, "echo madvise", func(_ *Options, _ *Probes, root fstest.MapFS) {
			root["sys/kernel/mm/transparent_hugepage/enabled"] = file("always madvise [never]\n")
		}},
		{"oneDNN", Warn, "libdnnl-dev", func(_ *Options, _ *Probes, root fstest.MapFS) {
			maps := root["proc/self/maps"].Data
			root["proc/self/maps"] = file(strings.ReplaceAll(string(maps), "libdnnl", "libother"))
		}},
		{"GPU", Warn, "--gpus", func(_ *Options, _ *Probes, root fstest.MapFS) {
			root["proc/driver/nvidia/version"] = file("NVRM version: NVIDIA UNIX x86_64 Kernel Module 550.54\nGCC version: 12\n")
		}},
		{"GPU", Warn, "modprobe", func(_ *Options, _ *Probes, root fstest.MapFS) { root["dev/nvidia0"] = file("") }},
		{"GPU", Warn, "not installed", func(_ *Options, _ *Probes, root fstest.MapFS) {
			root["proc/driver/nvidia/version"], root["dev/nvidia0"] = file("NVRM version: 550.54\n"), file("")
		}},
		{"data folder", Fail, "read-only", func(_ *Options, p *Probes, _ fstest.MapFS) {
			p.Write = func(folder string) error {
				if folder == "/data" {
					return errors.New("read-only file system")
				}
				return nil
			}
		}},
		{"temporary folder", Fail, "50 MiB", func(_ *Options, p *Probes, _ fstest.MapFS) {
			space := p.Space
			p.Space = func(folder string) (int64, error) {
				if folder == "/tmp" {
					return 50 << 20, nil
				}
				return space(folder)
			}
		}},
		{"data folder", Warn, "5.0 GiB", func(_ *Options, p *Probes, _ fstest.MapFS) {
			space := p.Space
			p.Space = func(folder string) (int64, error) {
				if folder == "/data" {
					return 5 << 30, nil
				}
				return space(folder)
			}
		}},
		{"clock", Warn, "chrony", func(_ *Options, p *Probes, _ fstest.MapFS) { p.Synced = func() (bool, error) { return false, nil } }},
		{"decoder", Fail, "no decoder", func(_ *Options, p *Probes, _ fstest.MapFS) {
			p.Decode = func(context.Context) (int, error) { return 0, errors.New("no decoder") }
		}},
		{"decoder", Fail, "7 frames", func(_ *Options, p *Probes, _ fstest.MapFS) {
			p.Decode = func(context.Context) (int, error) { return 7, nil }
		}},
		{"its clock", Warn, "+3.", func(_ *Options, p *Probes, _ fstest.MapFS) { p.Ask = answer(3*time.Second, time.Millisecond) }},
		{"its clock", Fail, "-600.", func(_ *Options, p *Probes, _ fstest.MapFS) { p.Ask = answer(-10*time.Minute, time.Millisecond) }},
		{"its clock", Warn, "version", func(_ *Options, p *Probes, _ fstest.MapFS) {
			p.Ask = func(context.Context, string) (Answer, error) {
				return Answer{Serving: true, Asked: noon, Answered: noon}, nil
			}
		}},
	} {
		o, p, root := sound()
		c.damage(&o, &p, root)
		for _, got := range Examine(t.Context(), o, p) {
			if got.Name != c.check {
				if got.Status != OK {
					t.Errorf("%s (%s): %+v minds too", c.check, c.says, got)
				}
				continue
			}
			if got.Status != c.status || got.Remedy == "" || !strings.Contains(got.Value+" "+got.Remedy, c.says) {
				t.Errorf("%+v, want %s with %q", got, c.status, c.says)
			}
		}
	}
}

// answer is that of a coordinator whose clock is off, over a line that takes rtt both ways.
func answer(off, rtt time.Duration) func(context.Context, string) (Answer, error) {
	return func(context.Context, string) (Answer, error) {
		return Answer{Serving: true, Asked: noon, Answered: noon.Add(rtt), Time: noon.Add(rtt/2 + off)}, nil
	}
}

// What a slow line cannot tell is no fault of the clock.
func TestASlowLineIsNoSkew(t *testing.T) {
	o, p, _ := sound()
	p.Ask = answer(3*time.Second, 6*time.Second)
	for _, c := range Examine(t.Context(), o, p) {
		if c.Name == "its clock" && c.Status != OK {
			t.Errorf("%+v", c)
		}
	}
}

func TestACoordinatorThatIsNotThere(t *testing.T) {
	o, p, _ := sound()
	for says, ask := range map[string]func(context.Context, string) (Answer, error){
		"no route":      func(context.Context, string) (Answer, error) { return Answer{}, errors.New("no route") },
		"not ready":     func(context.Context, string) (Answer, error) { return Answer{}, nil },
		"coordinator:7": func(context.Context, string) (Answer, error) { return Answer{}, errors.New("refused") },
	} {
		p.Ask = ask
		checks := Examine(t.Context(), o, p)
		last := checks[len(checks)-1]
		if Failed(checks) != 1 || last.Name != "coordinator" || last.Remedy == "" || !strings.Contains(last.Value, says) {
			t.Errorf("%+v, want one failure with %q", last, says)
		}
	}
}

func TestAGPU(t *testing.T) {
	o, p, root := sound()
	root["proc/driver/nvidia/version"], root["dev/nvidia0"] = file("NVRM version: 550.54\n"), file("")
	p.Command = func(_ context.Context, name string, _ ...string) (string, error) {
		return "NVIDIA H100, 550.54, 81559 MiB\nNVIDIA H100, 550.54, 81559 MiB\n", nil
	}
	for _, c := range Examine(t.Context(), o, p) {
		if c.Name == "GPU" && (c.Status != OK || strings.Count(c.Value, "H100") != 2 || strings.Contains(c.Value, "\n")) {
			t.Errorf("%+v", c)
		}
	}
}

func TestThePluginOfAGPU(t *testing.T) {
	found := func(o Options, p Probes) Check {
		t.Helper()
		for _, c := range Examine(t.Context(), o, p) {
			if c.Name == "GPU plugin" {
				return c
			}
		}
		t.Fatal("no such check")
		return Check{}
	}
	o, p, root := sound()
	if c := found(o, p); c.Status != OK || c.Value != "not needed without a GPU" {
		t.Errorf("without a GPU: %+v", c)
	}
	o.WantGPU = true
	want := "NVIDIA H200 (cuda 0), up to 126.0 GiB, by /venv/xla_cuda_plugin.so (PJRT 0.104, XLA 2, PJRT cuda 13000), found by /venv"
	if c := found(o, p); c.Status != OK || c.Value != want {
		t.Errorf("%+v, want %s", c, want)
	}
	o.WantGPU = false
	root["dev/nvidia0"] = file("")
	for _, tried := range []struct {
		gpu          GPU
		err          error
		says, remedy string
	}{
		{GPU{}, nil, "NVIDIA", ""},
		{GPU{Error: "no PJRT plugin", Remedy: "pip install it"}, nil, "no PJRT plugin", "pip install it"},
		{GPU{Error: "INTERNAL: something"}, nil, "INTERNAL", "docs/guides/gpu.md"},
		{GPU{}, errors.New("signal: aborted: Check failed"), "Check failed", "versions that go together"},
	} {
		if tried.says != "NVIDIA" {
			p.OpenGPU = func(context.Context) (GPU, error) { return tried.gpu, tried.err }
		}
		c := found(o, p)
		if !strings.Contains(c.Value, tried.says) || !strings.Contains(c.Remedy, tried.remedy) || (c.Status == OK) != (tried.remedy == "") {
			t.Errorf("%+v, want %q and %q", c, tried.says, tried.remedy)
		}
	}
	o.WantGPU = true
	if c := found(o, p); c.Status != Fail {
		t.Errorf("a GPU that was asked for and does not open: %+v", c)
	}
}

func TestWriting(t *testing.T) {
	checks := []Check{{Name: "memory", Status: Warn, Value: "little\nand less", Remedy: "buy <some>"}, {Name: "clock", Status: OK, Value: "noon"}}
	var table, lines bytes.Buffer
	if err := errors.Join(WriteTable(&table, checks), WriteJSON(&lines, checks)); err != nil {
		t.Fatal(err)
	}
	if want := "warn  memory  little and less\n              → buy <some>\nok    clock   noon\n"; table.String() != want {
		t.Errorf("table\n%s\nwant\n%s", table.String(), want)
	}
	var back []Check
	for d := json.NewDecoder(&lines); d.More(); {
		var c Check
		if err := d.Decode(&c); err != nil {
			t.Fatal(err)
		}
		back = append(back, c)
	}
	if len(back) != 2 || back[0] != checks[0] || back[1] != checks[1] {
		t.Errorf("read back %+v", back)
	}
}

func TestTheSystemAnswers(t *testing.T) {
	dir := t.TempDir()
	if free, err := Space(dir); err != nil || free <= 0 {
		t.Errorf("%d bytes left (%v)", free, err)
	}
	if _, err := Space(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing folder: %v", err)
	}
	if err := Write(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
	if err := Write(filepath.Join(dir, "missing")); err == nil {
		t.Error("wrote to a missing folder")
	}
	if _, err := Synced(); err != nil {
		t.Errorf("the kernel's clock: %v", err)
	}
	if out, err := Command(t.Context(), "echo", "here"); err != nil || out != "here\n" {
		t.Errorf("%q (%v)", out, err)
	}
}
