package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/cmd/surmise/doctor"
	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
	"github.com/surmise-ml/surmise/video"
)

// askPatience is how long doctor waits for a coordinator, and for a program it runs.
const askPatience = 10 * time.Second

func newDoctorCommand() *cobra.Command {
	var asJSON bool
	o := doctor.Options{TempDir: os.TempDir()}
	var to dial.Options
	var gpus gpuOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine, and say what to do",
		Long: `Check whether this machine can do the work: processor, memory, libraries, GPU, disk, clock and decoding, and with
--coordinator whether a coordinator answers and its clock agrees. Each line is ok, warn (it works, with less than it could) or fail,
and what is not ok says what to do. Exits with 1 when something fails.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := gpus.check(); err != nil {
				return badInput(err)
			}
			o.WantGPU = gpus.named()
			checks := doctor.Examine(cmd.Context(), o, machineProbes(to, gpus))
			write := doctor.WriteTable
			if asJSON {
				write = doctor.WriteJSON
			}
			if err := write(cmd.OutOrStdout(), checks); err != nil {
				return err
			}
			if n := doctor.Failed(checks); n > 0 {
				return fmt.Errorf("%d of %d checks failed", n, len(checks))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a line of JSON per check")
	cmd.Flags().StringVar(&o.Server, "coordinator", "", "address of a coordinator to ask (host:port; default none)")
	cmd.Flags().StringVar(&o.Server, "server", "", "the same as --coordinator, as it was called before")
	_ = cmd.Flags().MarkHidden("server") // the flag is there
	cmd.MarkFlagsMutuallyExclusive("coordinator", "server")
	cmd.Flags().StringVar(&o.DataDir, "data-dir", "surmise-data", "folder of jobs and artifacts")
	gpus.flags(cmd.Flags())
	to.Flags(cmd.Flags())
	return cmd
}

func machineProbes(to dial.Options, gpus gpuOptions) doctor.Probes {
	return doctor.Probes{
		Root:       os.DirFS("/"),
		Features:   kernel.Features,
		Kernels:    kernel.Setup,
		Native:     kernel.Native,
		NativeBF16: kernel.NativeBF16,
		Cores:      runtime.NumCPU,
		Threads: func() int {
			n, _ := trainer.Threads(0) // 0 is always within bounds
			return n
		},
		Memory:  cpu.AvailableMemory,
		Space:   doctor.Space,
		Write:   doctor.Write,
		Synced:  doctor.Synced,
		Command: runBriefly,
		OpenGPU: gpus.openElsewhere,
		Decode:  decodeClip,
		Ask: func(ctx context.Context, server string) (doctor.Answer, error) {
			to.Address = server
			return askCoordinator(ctx, to)
		},
		Now: time.Now,
	}
}

func runBriefly(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	return doctor.Command(ctx, name, args...)
}

// decodeClip decodes the built-in clip as every video is: in a process of its own.
func decodeClip(ctx context.Context) (frames int, err error) {
	dir, err := os.MkdirTemp("", "surmise-doctor-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "clip.mp4")
	if err := os.WriteFile(path, doctor.Clip, 0o600); err != nil {
		return 0, err
	}
	pool := video.NewPool(video.PoolOptions{Size: 1})
	defer pool.Close()
	verdict := pool.Inspect(ctx, path)
	if !verdict.Usable {
		return verdict.Frames, fmt.Errorf("the built-in clip is not usable: %s", verdict.Reason)
	}
	return verdict.Frames, nil
}

func askCoordinator(ctx context.Context, to dial.Options) (doctor.Answer, error) {
	client, err := connect(to)
	if err != nil {
		return doctor.Answer{}, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	health := healthv1.NewHealthClient(client.conn)
	ask := func() (a doctor.Answer, err error) {
		var header metadata.MD
		a.Asked = time.Now()
		reply, err := health.Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Header(&header))
		a.Answered = time.Now()
		a.Serving = reply.GetStatus() == healthv1.HealthCheckResponse_SERVING
		if told := header.Get(coordinator.TimeHeader); len(told) == 1 {
			a.Time, _ = time.Parse(time.RFC3339Nano, told[0]) // zero: it did not tell
		}
		return a, err
	}
	if _, err := ask(); err != nil { // connecting takes time, which would blur the comparison of clocks
		return doctor.Answer{}, err
	}
	return ask()
}
