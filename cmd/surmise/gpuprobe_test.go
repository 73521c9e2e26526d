package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/cmd/surmise/doctor"
	"github.com/surmise-ml/surmise/trainer/xla/pjrt/pjrttest"
)

// Doctor opens a GPU in a process of its own, with a driver that is found as a real one is.
func TestDoctorTriesAGPU(t *testing.T) {
	dir := t.TempDir()
	pjrttest.NewDriver(t, filepath.Join(dir, "libcuda.so.1"))
	pjrttest.NewDriver(t, filepath.Join(dir, "libnvidia-ml.so.1"))
	plugin := pjrttest.New(t, filepath.Join(dir, "plugin.so"))

	check := func(args ...string) doctor.Check {
		t.Helper()
		_, out, _ := surmise(t, "", append([]string{"doctor", "--json", "--data-dir", dir}, args...)...)
		for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
			var c doctor.Check
			if err := d.Decode(&c); err != nil {
				t.Fatal(err)
			}
			if c.Name == "GPU plugin" {
				return c
			}
		}
		t.Fatalf("no such check in %s", out)
		return doctor.Check{}
	}
	for _, c := range []struct {
		libraries, settings string
		args                []string
		status              doctor.Status
		says, remedy        string
	}{
		{dir, "", []string{"--pjrt-plugin", plugin.Path}, doctor.OK, "Fake 1000 (fake 0), up to 1.0 GiB, by " + plugin.Path + " (PJRT 0.104, XLA 2, fake 13000), found by --pjrt-plugin", ""},
		{dir, "", []string{"--pjrt-plugin", plugin.Path, "--device", "gpu:3"}, doctor.Fail, "there is no gpu:3: the driver shows gpu:0 Fake 100", "use gpu:0"},
		{dir, "minor=7", []string{"--pjrt-plugin", plugin.Path}, doctor.Fail, "it is too old", "pip install"},
		{dir, "abort_create=1", []string{"--pjrt-plugin", plugin.Path}, doctor.Fail, "SIGABRT: abort", "versions that go together"},
		{"", "", []string{"--device", "gpu"}, doctor.Fail, "no working NVIDIA driver", "install NVIDIA's driver"},
	} {
		t.Setenv("LD_LIBRARY_PATH", c.libraries)
		t.Setenv("PJRTTEST_SETTINGS", c.settings)
		if c.libraries == "" && hasRealDriver() {
			continue
		}
		got := check(c.args...)
		if got.Status != c.status || !strings.Contains(got.Value, c.says) || !strings.Contains(got.Remedy, c.remedy) {
			t.Errorf("%s %v: %+v, want %s with %q and %q", c.settings, c.args, got, c.status, c.says, c.remedy)
		}
	}
	if code, _, said := surmise(t, "", "doctor", "--device", "tpu"); code != exitUsage || !strings.Contains(said, "--device") {
		t.Errorf("a device that is none: exit code %d, %s", code, said)
	}
}

// hasRealDriver tells whether this machine has a driver of NVIDIA's.
func hasRealDriver() bool {
	_, err := filepath.EvalSymlinks("/proc/driver/nvidia/version")
	return err == nil
}

func TestWhyAProcessEnded(t *testing.T) {
	for said, want := range map[string]string{
		"": "",
		"I0000 loading\nF0000 00:00:17.1 cuda.cc:9] Check failed: ok\n*** stack\nSIGABRT: abort\nrax 0": "F0000 00:00:17.1 cuda.cc:9] Check failed: ok",
		"W0000 slow\nSIGSEGV: segmentation violation\nPC=0x0\ngs 0x0\n":                                 "SIGSEGV: segmentation violation",
		"one\ntwo\n": "two",
	} {
		if got := reason([]byte(said)); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}
