package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/plausibility"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/worker"
)

// trainBench and scoreBench are what bench prints.
type trainBench struct {
	Preset string `json:"preset"`
	trainer.BenchmarkResult
	PeakRSS int64 `json:"peak_rss_bytes"` // of this process
}

type scoreBench struct {
	Preset string `json:"preset"`
	plausibility.BenchmarkResult
	PeakRSS int64 `json:"peak_rss_bytes"`
}

type benchOptions struct {
	preset         string
	file           string
	precision      string
	device         workercmd.DeviceOptions
	steps, windows int
	threads        int
	score          bool
	json           bool
	data           []string
	cache          workercmd.CacheOptions
}

func newBenchCommand() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the speed of training, or of scoring, on this machine",
		Long: `Time training steps of a preset on random clips, and matrix products alone in the same run: what the machine could give.
With --file, time the model, batch and masks of a job file with a train job, in place of a preset.
With --data, clips are cut from videos, inspected beforehand, so that waiting for them shows.
With --score, time the scoring of windows of random frames, decoded beforehand, with a preset's model.
Run it on a quiet machine.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("windows") && !o.score {
				return badInput(errors.New("--windows goes with --score"))
			}
			if len(o.data) > 0 && o.score {
				return badInput(errors.New("--data does not go with --score"))
			}
			return o.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.preset, "preset", "tiny", "demo, nano, tiny or small")
	flags.StringVarP(&o.file, "file", "f", "", "job file with the train job to time, in place of a preset; its data, precision and device are not used")
	flags.StringVar(&o.precision, "precision", "auto", "auto, fp32, bf16 or, on a GPU, tf32")
	o.device.Flags(flags)
	flags.IntVar(&o.steps, "steps", 10, "steps to time, after one to warm up; with --score, passes over the windows")
	flags.IntVar(&o.threads, "threads", 0, "CPU threads (default all)")
	flags.BoolVar(&o.score, "score", false, "measure scoring in place of training")
	flags.IntVar(&o.windows, "windows", worker.ScoreBatch, "with --score: windows of a pass")
	flags.StringArrayVar(&o.data, "data", nil, "videos to cut clips from, as inspect takes them; repeat for more (default random clips)")
	o.cache.Flags(flags)
	flags.BoolVar(&o.json, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("file", "preset")
	return cmd
}

// job is the train job that is timed, with the name that its figures get.
func (o benchOptions) job(in io.Reader) (name string, train *surmisev1.TrainSpec, err error) {
	if o.file == "" {
		return o.preset, &surmisev1.TrainSpec{Preset: o.preset}, nil
	}
	request, err := readJobFile(o.file, in)
	if err != nil {
		return "", nil, err
	}
	if request.GetTrain() == nil {
		return "", nil, badInput(fmt.Errorf("job file %s: it has no train job", o.file))
	}
	return strings.TrimSuffix(filepath.Base(o.file), filepath.Ext(o.file)), request.GetTrain(), nil
}

func (o benchOptions) run(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	if o.steps < 1 {
		return badInput(fmt.Errorf("--steps %d: want at least 1", o.steps))
	}
	if o.windows < 1 || o.windows > plausibility.MaxBenchmarkWindows {
		return badInput(fmt.Errorf("--windows %d: want 1 to %d", o.windows, plausibility.MaxBenchmarkWindows))
	}
	threads, err := trainer.Threads(o.threads)
	if err != nil {
		return badInput(fmt.Errorf("--threads: %w", err))
	}
	on, err := openDevice(o.device)
	if err != nil {
		return err
	}
	defer closeDevice(on, &err)
	precision, err := trainer.ResolvePrecision(cpu.Precision(o.precision), on)
	if err != nil {
		return badInput(fmt.Errorf("--precision: %w", err))
	}
	name, job, err := o.job(in)
	if err != nil {
		return err
	}
	if job.Encoder != nil { // its checkpoint and its features are not made up
		return badInput(fmt.Errorf("job file %s: train.encoder: a predictor on a frozen encoder cannot be timed", o.file))
	}
	if job.Init != nil {
		return badInput(fmt.Errorf("job file %s: train.init: a step takes as long with any weights; leave it out, and name the model's shape in train.model", o.file))
	}
	job.Data, job.Threads, job.Precision, job.Device = []string{"none"}, int32(threads), string(precision), ""
	complete, err := specOf(&surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Train{Train: job}})
	if err != nil {
		return err
	}
	cfg, err := worker.TrainConfig(complete.GetTrain(), nil)
	if err != nil {
		return badInput(err)
	}
	if o.score {
		batch := worker.BatchOn(on, cfg.Model)
		if on != nil {
			batch = min(batch, o.windows) // an accelerator computes whole batches
		}
		result, err := plausibility.Benchmark(ctx, cfg.Model, plausibility.BenchmarkOptions{
			Windows: o.windows, Passes: o.steps, Batch: batch, Machine: cpu.Options{Threads: threads, Precision: precision}, Device: on})
		if err != nil {
			return err
		}
		return o.printScore(out, scoreBench{name, result, peakRSS()})
	}
	result, err := o.train(ctx, cfg, on)
	if err != nil {
		return err
	}
	peak := peakRSS() // of the steps: the roofline takes a library and memory of its own
	if err := result.MeasureRoofline(time.Second); err != nil {
		return err
	}
	return o.printTrain(out, trainBench{name, result, peak})
}

func (o benchOptions) train(ctx context.Context, cfg trainer.Config, on xla.Device) (trainer.BenchmarkResult, error) {
	if len(o.data) == 0 {
		return trainer.Benchmark(ctx, cfg, o.steps, on)
	}
	decoders, done, err := workercmd.OpenDecoders(o.cache)
	if err != nil {
		return trainer.BenchmarkResult{}, badInput(err)
	}
	defer done()
	cfg.Data.Data = o.data
	return trainer.BenchmarkVideos(ctx, cfg, o.steps, decoders, on)
}

func (o benchOptions) printTrain(out io.Writer, r trainBench) error {
	if o.json {
		return json.NewEncoder(out).Encode(r)
	}
	_, err := fmt.Fprintf(out, "%s, %s, %d threads, %s\n%.2f clips/s, %.3f s per step of %d clips (95th percentile %.3f s), %.0f %% of the time waiting for clips\n%.1f GFLOP/s of %.1f (%.0f %% of products alone), %.0f MB peak memory\n",
		r.Preset, r.Precision, r.Threads, cmp.Or(r.Kernels, r.Device), r.ClipsPerSecond, r.StepSeconds, r.Batch, r.StepP95, 100*r.DataWaitShare, r.GFLOPS, r.RooflineGFLOPS, 100*r.RooflineShare, float64(r.PeakRSS)/1e6)
	return err
}

func (o benchOptions) printScore(out io.Writer, r scoreBench) error {
	if o.json {
		return json.NewEncoder(out).Encode(r)
	}
	contexts := "every past"
	if len(r.Contexts) > 0 {
		contexts = fmt.Sprintf("contexts of %d frames", r.Contexts)
	}
	_, err := fmt.Fprintf(out, "%s, %s, %d threads, %s\n%.2f windows/s, %.3f s for %d windows, %s\n%.1f GFLOP/s, %.0f MB peak memory\n",
		r.Preset, r.Precision, r.Threads, cmp.Or(r.Kernels, r.Device), r.WindowsPerSecond, r.ScoreSeconds, r.Windows, contexts, r.GFLOPS, float64(r.PeakRSS)/1e6)
	return err
}

// peakRSS is the largest resident memory of this process so far, bytes; 0 where the system does not say.
func peakRSS() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(status), "\n") {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}
