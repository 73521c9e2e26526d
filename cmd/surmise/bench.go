package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/worker"
)

// benchResult is what bench prints.
type benchResult struct {
	Preset    string `json:"preset"`
	Precision string `json:"precision"`
	trainer.BenchmarkResult
	PeakRSS int64 `json:"peak_rss_bytes"` // of this process
}

func newBenchCommand() *cobra.Command {
	var preset, precision string
	var steps, threads int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the speed of training on this machine",
		Long: `Time training steps of a preset on random clips, and matrix products alone in the same run: what the machine could give.
Run it on a quiet machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if precision != "fp32" {
				return badInput(fmt.Errorf("--precision %q: want fp32, the only one there is yet", precision))
			}
			if steps < 1 {
				return badInput(fmt.Errorf("--steps %d: want at least 1", steps))
			}
			complete, err := specOf(&surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Train{
				Train: &surmisev1.TrainSpec{Data: []string{"none"}, Preset: preset, Threads: int32(threads), Precision: precision}}})
			if err != nil {
				return err
			}
			cfg, err := worker.TrainConfig(complete.GetTrain(), nil)
			if err != nil {
				return badInput(err)
			}
			result, err := trainer.Benchmark(cmd.Context(), cfg, steps)
			if err != nil {
				return err
			}
			r := benchResult{preset, precision, result, peakRSS()}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s, %s, %d threads, %s\n%.2f clips/s, %.3f s per step of %d clips (95th percentile %.3f s)\n%.1f GFLOP/s of %.1f (%.0f %% of products alone), %.0f MB peak memory\n",
				r.Preset, r.Precision, r.Threads, r.Kernels, r.ClipsPerSecond, r.StepSeconds, r.Batch, r.StepP95, r.GFLOPS, r.RooflineGFLOPS, 100*r.RooflineShare, float64(r.PeakRSS)/1e6)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&preset, "preset", "tiny", "demo, nano, tiny or small")
	flags.StringVar(&precision, "precision", "fp32", "fp32")
	flags.IntVar(&steps, "steps", 10, "steps to time, after one to warm up")
	flags.IntVar(&threads, "threads", runtime.GOMAXPROCS(0), "CPU threads")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
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
