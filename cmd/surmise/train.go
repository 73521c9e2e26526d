package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/parallel"
	"github.com/surmise-ml/surmise/worker"
)

func newTrainCommand() *cobra.Command {
	var file, out string
	var together bool
	var cache workercmd.CacheOptions
	var device workercmd.DeviceOptions
	var roots []string
	cmd := &cobra.Command{
		Use:   "train -f JOB.json --out DIR",
		Short: "Train without a coordinator",
		Long: `Do a training job in this process. Checkpoints go to DIR; with one there already, of the same job, training goes on from
it. An interruption leaves a checkpoint.

With --mpi, all processes that mpirun or srun has started train one model: each takes its share of every batch, which must
divide evenly, and their gradients are added up. The first process reports and writes the checkpoints. Threads are those
of each process.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			request, err := readJobFile(file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			if request.GetTrain() == nil {
				return badInput(fmt.Errorf("job file %s: not a training job; score without a coordinator with 'surmise score'", inputName(file)))
			}
			spec, err := specOf(request)
			if err != nil {
				return err
			}
			jobs := worker.Jobs{DataRoots: roots}
			stopped := false // with all processes of the run
			if together {
				group, leave, failed := parallel.Join()
				if failed != nil {
					return badInput(fmt.Errorf("--mpi: %w", failed))
				}
				defer func() {
					if err != nil && !stopped {
						group.Abort(err) // the others wait for this process, here and in leave
					}
					err = errors.Join(err, leave())
				}()
				jobs.Group = group
			}
			if out == "" {
				return badInput(errors.New("--out is empty: want the folder of the run's checkpoints"))
			}
			decoders, done, err := workercmd.OpenDecoders(cache)
			if err != nil {
				return badInput(err)
			}
			defer done()
			features, err := workercmd.OpenFeatures(cache)
			if err != nil {
				return badInput(err)
			}
			gpus, err := device.GPUs()
			if err != nil {
				return badInput(err)
			}
			view := newProgressView(cmd.ErrOrStderr())
			jobs.Decoders, jobs.Features, jobs.Open = decoders, features, gpus.Open
			result, err := jobs.Train(cmd.Context(), spec.GetTrain(), out, localReports{view})
			view.close()
			if err != nil {
				if stopped = trainer.StoppedTogether(err); stopped {
					return errors.New("training was interrupted; the same command goes on from the last checkpoint")
				}
				err = localFailure(cmd.Context(), "training", err)
				if cmd.Context().Err() != nil {
					err = fmt.Errorf("%w; the same command goes on from the last checkpoint", err)
				}
				return err
			}
			if result.Checkpoint != "" {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), result.Checkpoint)
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "job file; - for standard input")
	cmd.Flags().StringVar(&out, "out", "surmise-run", "folder of the run's checkpoints")
	cmd.Flags().StringArrayVar(&roots, "data-root", nil, "folder below which the job may name files; repeat for more (default any)")
	cmd.Flags().BoolVar(&together, "mpi", false, "train together with the other processes that mpirun or srun has started")
	cache.Flags(cmd.Flags())
	cache.TrainFlags(cmd.Flags())
	device.Flags(cmd.Flags())
	cobra.CheckErr(cmd.MarkFlagRequired("file"))
	cobra.CheckErr(cmd.MarkFlagFilename("file", "json"))
	cobra.CheckErr(cmd.MarkFlagDirname("out"))
	return cmd
}

// localFailure tells an interruption and a failing machine from a job that is to blame.
func localFailure(ctx context.Context, doing string, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s was interrupted", doing)
	case worker.IsInfrastructure(err):
		return err
	}
	return jobError{err}
}

// localReports shows what a job says when there is no coordinator to tell.
type localReports struct{ view progressView }

func (r localReports) Progress(p *surmisev1.Progress) { r.view.update(p) }

func (r localReports) Checkpoint(c *surmisev1.Checkpoint) {
	r.view.note("checkpoint at step %d: %s", c.GetStep(), c.GetPath())
}

// Recorded: every checkpoint is, once it is on disk.
func (r localReports) Recorded() int32 { return 1<<31 - 1 }
