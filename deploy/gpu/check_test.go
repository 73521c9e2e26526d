package gpu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The check on a machine where everything below it is a stand-in that answers at once: what it makes of the answers. On a
// GPU it has to be run by hand; deploy/gpu/build.sh says how.

// bundle is a folder as build.sh makes it, of stand-ins.
type bundle struct {
	dir     string
	surmise string // what surmise does, by its arguments, in shell
	step    string // what pytorch/step.py does, likewise
	golden  string // what the tests print
	ends    string // how they end, in shell; "" for by what they print
	curve   []float64
	env     []string
}

func newBundle(t *testing.T) *bundle {
	t.Helper()
	for _, program := range []string{"python3", "timeout"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s", program)
		}
	}
	b := &bundle{dir: t.TempDir(), golden: "=== RUN TestGoldenForward\n    --- PASS: TestGoldenForward/xla (0.10s)\n--- PASS: TestGoldenSurprise (0.10s)\nPASS\n"}
	for i := range 31 {
		b.curve = append(b.curve, 1/float64(i+1))
	}
	losses := fmt.Sprint(b.curve)
	losses = strings.ReplaceAll(losses, " ", ", ")
	b.surmise = `case "$*" in
doctor*) echo "ok    GPU plugin  NVIDIA H200 (cuda 0), up to 126.0 GiB" ;;
*fused*=false*) echo '{"preset":"nano","batch":16,"step_s":0.003,"gflops_per_s":200,"roofline_gflops":600,"data_wait_share":0.01}' ;;
*--score*) echo '{"preset":"x","windows":8,"windows_per_s":1000,"score_s":0.008}' ;;
*) echo '{"preset":"nano","batch":16,"step_s":0.002,"gflops_per_s":300,"roofline_gflops":600,"data_wait_share":0.01,"losses":` + losses + `}' ;;
esac`
	b.step = `echo '{"batch": 16, "step_s": 0.004, "gflops_per_s": 150, "products_gflops_per_s": 600, "torch": "2.11.0", "cuda": "13.0", "cudnn": 91900}'`
	return b
}

// run writes the stand-ins, runs the check and returns what it printed and its exit code.
func (b *bundle) run(t *testing.T) (said string, code int) {
	t.Helper()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(b.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"check.sh", "report.py", "base.json"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		write(name, string(text))
	}
	write("surmise", "#!/bin/sh\n"+b.surmise+"\n")
	for _, test := range []string{"model", "trainer", "plausibility"} {
		write(test+".test", "#!/bin/sh\ncat <<'E'\n"+b.golden+"E\ncase '"+b.golden+"' in *FAIL*) exit 1 ;; esac\n"+b.ends+"\n")
	}
	// Python is what it is, but for what it would need PyTorch for.
	write("bin/python", "#!/bin/sh\ncase $1 in\npytorch/step.py) "+b.step+" ;;\n"+
		`pytorch/score.py) echo '{"windows": 8, "windows_per_s": 500, "score_s": 0.016, "torch": "2.11.0"}' ;;`+"\n-m) ;;\n*) exec python3 \"$@\" ;;\nesac\n")
	write("BUILT", "surmise v1\ngo version go1.26\n")
	write("bin/nvidia-smi", "#!/bin/sh\necho 'NVIDIA H200, 580.1, 143771 MiB, 0 MiB'\n")
	write("curve.json", fmt.Sprintf(`{"preset":"nano","losses":%s}`, strings.ReplaceAll(fmt.Sprint(b.curve), " ", ",")))

	check := exec.CommandContext(t.Context(), "sh", filepath.Join(b.dir, "check.sh"))
	check.Env = append(os.Environ(), "PATH="+filepath.Join(b.dir, "bin")+":"+os.Getenv("PATH"), "PJRT_PLUGIN_LIBRARY_PATH=/none.so", "PYTHON=python")
	check.Env = append(check.Env, b.env...)
	out, err := check.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), check.ProcessState.ExitCode()
}

func expect(t *testing.T, said string, code, want int, parts ...string) {
	t.Helper()
	if code != want {
		t.Errorf("exit code %d, want %d", code, want)
	}
	for _, part := range parts {
		if !strings.Contains(said, part) {
			t.Errorf("it does not say %q", part)
		}
	}
	if t.Failed() {
		t.Log(said)
	}
}

func TestCheckThatHolds(t *testing.T) {
	said, code := newBundle(t).run(t)
	expect(t, said, code, 0,
		"model: holds (2 tests)",
		"holds: nano, losses of every tenth of 310 steps, from 1.0000 to 0.0323: at most 0.00 % apart (2 % allowed)",
		"- Machine: NVIDIA H200, 580.1, 143771 MiB, 0 MiB (model, driver, memory, memory in use).",
		"surmise v1, go version go1.26; NVIDIA H200 (cuda 0), up to 126.0 GiB.",
		"- PyTorch 2.11.0, CUDA 13.0, cuDNN 91900.",
		"model holds (2 tests), trainer holds (2 tests), training holds (2 tests), plausibility holds (2 tests)",
		"| nano (16) | 2.00 | 4.00 | compiled-graph | **2.00** | 50 % | 25 % | 1.0 % |",
		"| base (16) | 2.00 | 4.00 | compiled | **2.00** |",
		"| tiny (8) | 1.000 | 2.000 | **2.00** |",
		"a step of nano with other compiler flags: concurrent 2.00, cublaslt 2.00.")
}

func TestCheckThatFindsFaults(t *testing.T) {
	t.Run("no GPU", func(t *testing.T) {
		b := newBundle(t)
		b.surmise = `echo "warn  GPU plugin  no working NVIDIA driver"`
		said, code := b.run(t)
		expect(t, said, code, 1, "no working NVIDIA driver", "The GPU cannot be used: see above, and probe.txt.", "| nano (16) | not run | 4.00 |", "model not run")
	})
	t.Run("parity", func(t *testing.T) {
		b := newBundle(t)
		b.golden = "    golden_test.go:7: loss: differs by 0.5, allowed 2e-05\n    --- FAIL: TestGoldenForward/xla (0.10s)\nFAIL\n"
		said, code := b.run(t)
		expect(t, said, code, 1, "trainer: DOES NOT HOLD", "differs by 0.5", "--- FAIL: TestGoldenForward/xla", "trainer DOES NOT HOLD", "Something does not hold")
	})
	t.Run("parity that was not looked at", func(t *testing.T) {
		b := newBundle(t)
		b.golden = "testing: warning: no tests to run\nPASS\n"
		said, code := b.run(t)
		expect(t, said, code, 1, "model: DOES NOT HOLD", "no tests to run")
	})
	t.Run("parity that was cut off", func(t *testing.T) {
		b := newBundle(t)
		b.golden, b.ends = "=== RUN TestGoldenForward\n    --- PASS: TestGoldenForward/xla (0.10s)\n", "exit 124"
		said, code := b.run(t)
		expect(t, said, code, 2, "trainer: cut off after 150 s, 1 tests passed and none failed", "trainer cut off after")
	})
	t.Run("losses", func(t *testing.T) {
		b := newBundle(t)
		b.curve[30] *= 1.05
		said, code := b.run(t)
		expect(t, said, code, 1, "DOES NOT HOLD: nano, losses of every tenth of 310 steps", "at most 4.76 % apart")
	})
	t.Run("a loss that is no number", func(t *testing.T) {
		b := newBundle(t)
		b.surmise = strings.Replace(b.surmise, "[1, 0.5", "[1, NaN", 1)
		said, code := b.run(t)
		expect(t, said, code, 1, "DOES NOT HOLD: nano")
	})
	t.Run("a step that fails", func(t *testing.T) {
		b := newBundle(t)
		b.surmise = `case "$*" in *tiny*) echo "out of memory" >&2; exit 1 ;; esac` + "\n" + b.surmise
		said, code := b.run(t)
		expect(t, said, code, 1, "train-tiny-surmise: FAILED: out of memory", "| tiny (16) | not run | 4.00 |", "| small (16) | 2.00 |")
	})
}

// What was found is in one file, whatever the folder it is asked for from.
func TestCheckPacks(t *testing.T) {
	b := newBundle(t)
	to := t.TempDir()
	b.env = []string{"PACK=" + filepath.Join(to, "r.tar.gz"), "RESULTS=" + filepath.Join(to, "r")}
	if said, code := b.run(t); code != 0 {
		t.Fatal(said)
	}
	names, err := exec.CommandContext(t.Context(), "tar", "-tzf", filepath.Join(to, "r.tar.gz")).Output()
	for _, want := range []string{"./section.md", "./train-base-surmise.json", "./golden-training.log", "./flags-nano-dump.json"} {
		if err != nil || !strings.Contains(string(names), want) {
			t.Errorf("%v: no %s in\n%s", err, want, names)
		}
	}
}

// Without PyTorch, and with PyTorch that cannot do all, the rest is measured all the same.
func TestCheckWithoutPyTorch(t *testing.T) {
	b := newBundle(t)
	b.step = `echo "No module named 'torch'" >&2; exit 1`
	said, code := b.run(t)
	expect(t, said, code, 0, "train-nano-torch-graph: FAILED: No module named 'torch'", "| nano (16) | 2.00 | not run | – | – | 50 % | – |")
}

// What there is no time for is named, whatever an earlier check left in the folder.
func TestCheckThatRunsOutOfTime(t *testing.T) {
	b := newBundle(t)
	if said, code := b.run(t); code != 0 {
		t.Fatal(said)
	}
	b.env = []string{"SECONDS_LEFT=0"}
	said, code := b.run(t)
	expect(t, said, code, 2, "300 steps in fp32 against the CPU: not run.", "curve-gpu: not run, the time is up", "Not run, as the time was up: ", "train-nano-surmise", "| nano (–) | not run | not run |")
}
