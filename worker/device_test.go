package worker

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/trainer/xla/gpu"
	"github.com/surmise-ml/surmise/trainer/xla/xlatest"
)

// A training job with evaluations runs on the device that it asks for, and its model scores the same there and on the CPU.
// Nothing is left open on the device.
func TestJobsOnADevice(t *testing.T) {
	videos := tinyVideos(t)
	dir := t.TempDir()
	var devices []*xlatest.Device
	jobs := Jobs{DataRoots: []string{filepath.Dir(videos.PairsCSV)}, Open: func(device string) (xla.Device, error) {
		if device != "gpu:3" {
			return nil, fmt.Errorf("the worker was asked for %s", device)
		}
		d, err := xlatest.New()
		devices = append(devices, d)
		return d, err
	}}
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir)).GetTrain()
	spec.Device, spec.LogEvery = "gpu:3", 3
	spec.Eval = complete(t, fmt.Sprintf(`{"train":{"data":["x"],"eval":{"pairs":%q,"every":4,"stride":8}}}`, videos.PairsCSV)).GetTrain().Eval
	result, err := jobs.Train(t.Context(), spec, filepath.Join(dir, "run"), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := checkpoint.Load(result.Checkpoint); err != nil || c.Manifest.Precision != "bf16" {
		t.Errorf("the checkpoint records %q (%v), want that auto is bf16 on a device", c.Manifest.Precision, err)
	}
	surprise := map[string][]float64{}
	for _, device := range []string{"cpu", "gpu:3"} {
		score := complete(t, fmt.Sprintf(`{"score":{"pairs":%q,"model":"jobs/a","stride":8,"precision":"fp32","device":%q,"copyLastFrame":true}}`,
			videos.PairsCSV, device)).GetScore()
		file, err := jobs.Score(t.Context(), score, result.Checkpoint, filepath.Join(dir, strings.ReplaceAll(device, ":", "")+".json"), &recorder{})
		if err != nil {
			t.Fatal(err)
		}
		surprise[device] = everySurprise(file)
	}
	if len(surprise["cpu"]) < 12 || len(surprise["cpu"]) != len(surprise["gpu:3"]) {
		t.Fatalf("%d and %d figures", len(surprise["cpu"]), len(surprise["gpu:3"]))
	}
	for i, want := range surprise["cpu"] {
		if got := surprise["gpu:3"][i]; math.Abs(got-want) > 1e-4*math.Abs(want)+1e-7 {
			t.Errorf("figure %d is %g on the device, %g on the CPU", i, got, want)
		}
	}
	if len(devices) != 2 {
		t.Errorf("%d devices were opened, want one for each job", len(devices))
	}
	for _, d := range devices {
		if buffers, executables := d.Open(); buffers+executables > 0 || d.Runs == 0 {
			t.Errorf("%d buffers and %d executables are open after %d runs", buffers, executables, d.Runs)
		}
	}
}

// everySurprise lists the surprise of every window of every video.
func everySurprise(f *compare.File) (out []float64) {
	for _, set := range f.Sets {
		for _, s := range set.Scores {
			for _, windows := range s.Surprise {
				out = append(out, windows...)
			}
		}
	}
	return out
}

// Which GPU a job gets, or why it gets none, on a machine that has no driver.
func TestWhichGPU(t *testing.T) {
	for _, c := range []struct {
		own, asked, want string // want: part of the error; "": the CPU
	}{
		{"auto", "auto", ""}, {"", "auto", ""}, {"cpu", "auto", ""},
		{"auto", "gpu", "no working NVIDIA driver"},
		{"auto", "gpu:2", "opening gpu:2"},
		{"gpu:1", "auto", "opening gpu:1"},
		{"gpu:1", "gpu", "opening gpu:1"},
		{"gpu:1", "gpu:1", "install NVIDIA's driver"},
		{"gpu:1", "gpu:0", "gpu:0, and this worker has gpu:1"},
		{"cpu", "gpu", "this worker runs jobs on its CPU"},
		{"auto", "tpu", `device "tpu"`},
	} {
		g := &GPUs{Device: c.own, System: gpu.System{Getenv: func(string) string { return "" }, Root: t.TempDir(), Driver: filepath.Join(t.TempDir(), "libcuda.so.1")}}
		d, err := g.Open(c.asked)
		switch {
		case c.want == "" && (d != nil || err != nil):
			t.Errorf("worker %s, job %s: got %v, %v, want the CPU", c.own, c.asked, d, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("worker %s, job %s: got %v, want an error that says %q", c.own, c.asked, err, c.want)
		case err != nil && IsInfrastructure(err) != strings.HasPrefix(c.want, "opening gpu:1") && c.want != "install NVIDIA's driver":
			t.Errorf("worker %s, job %s: blame for %v", c.own, c.asked, err)
		}
		if err := g.Probe(); (err != nil) != strings.HasPrefix(c.own, "gpu") {
			t.Errorf("a worker of %s starts with %v", c.own, err)
		}
	}
	if err := (&GPUs{Device: "gpu:x"}).Check(); err == nil {
		t.Error("gpu:x passed")
	}
}

// A worker without accelerators runs auto on its CPU, and says so to a job that wants a GPU; tf32 takes one.
func TestJobsWithoutADevice(t *testing.T) {
	videos := tinyVideos(t)
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir)).GetTrain()
	for _, c := range []struct{ device, precision, want string }{
		{"gpu", "auto", "train.device is gpu, and this worker runs jobs on its CPU"},
		{"auto", "tf32", "train.precision is \"tf32\""},
	} {
		spec.Device, spec.Precision = c.device, c.precision
		_, err := Jobs{}.Train(t.Context(), spec, t.TempDir(), &recorder{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	if p, err := machineOptions(1, "", nil); err != nil || p.Precision != cpu.FP32 {
		t.Errorf("a spec without precision: %+v, %v", p, err)
	}
}

// An accelerator scores in large batches, and where these do not fit, in small ones.
func TestScoringInBatchesThatFit(t *testing.T) {
	videos := tinyVideos(t)
	spec := complete(t, fmt.Sprintf(tinyTrain, videos.ClipsDir)).GetTrain()
	spec.Steps = 1
	trained, err := (Jobs{}).Train(t.Context(), spec, filepath.Join(t.TempDir(), "run"), &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	said := logged(t)
	smaller := 0
	for free := int64(1 << 20); free <= 1<<32; free *= 2 { // bytes
		jobs := Jobs{Open: func(string) (xla.Device, error) {
			d, err := xlatest.New()
			if err == nil {
				d.Free = free
			}
			return d, err
		}}
		score := complete(t, fmt.Sprintf(`{"score":{"pairs":%q,"model":"jobs/a","stride":8,"device":"gpu","skipTwin":true}}`, videos.PairsCSV)).GetScore()
		said.Reset()
		_, err := jobs.Score(t.Context(), score, trained.Checkpoint, filepath.Join(t.TempDir(), "scores.json"), &recorder{})
		again := strings.Contains(said.String(), "smaller batches")
		if err == nil && again {
			smaller++
		}
		if err == nil && !again {
			break
		}
	}
	if smaller == 0 {
		t.Error("there was no memory in which small batches fit alone")
	}
}
