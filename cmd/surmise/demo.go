package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/cmd/daemon"
	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/report"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/video/synth"
)

type demoOptions struct {
	out          string
	clips, pairs int
	steps        int32
	seed         uint64
	evalEvery    int32

	pixels, copyLast, reencode, recolour, reversal bool
}

// command is what makes the same page again.
func (o demoOptions) command() string {
	text := fmt.Sprintf("surmise demo --clips %d --pairs %d --steps %d --seed %d", o.clips, o.pairs, o.steps, o.seed)
	if o.evalEvery > 0 {
		text += fmt.Sprintf(" --eval-every %d", o.evalEvery)
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"pixel-baseline", o.pixels}, {"copy-last-frame", o.copyLast}, {"reencode", o.reencode}, {"recolour", o.recolour}, {"time-reversal", o.reversal}} {
		if f.set {
			text += " --" + f.name
		}
	}
	return text
}

func newDemoCommand() *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "The whole way once: make clips, train, score, compare, report",
		Long: `The whole way once, with nothing prepared: make clips of simple physics, start a coordinator and a worker, train a model
on the possible clips through them, score held-out pairs of possible and impossible videos with it and with its untrained
twin, print what the scores show, and write a report. A few minutes on two cores.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("log-level") { // the progress lines say what the services would
				logger, err := daemon.Logging{Level: "warn", Format: "text"}.Logger(cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				slog.SetDefault(logger)
			}
			err := demo(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
			if err != nil && cmd.Context().Err() != nil {
				return fmt.Errorf("the demo was interrupted; run again it begins anew, and replaces what is in %s", o.out)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.out, "out", "surmise-demo", "folder to fill; what an earlier demo left there is replaced")
	flags.IntVar(&o.clips, "clips", 1600, "clips to train on")
	flags.IntVar(&o.pairs, "pairs", 160, "held-out pairs to score")
	flags.Int32Var(&o.steps, "steps", 400, "training steps of 8 clips")
	flags.Uint64Var(&o.seed, "seed", 2026, "seed of clips, weights and training")
	flags.Int32Var(&o.evalEvery, "eval-every", 0, "score the pairs every so many training steps, for the curve (default never)")
	flags.BoolVar(&o.pixels, "pixel-baseline", false, "train and score the same model with pixels as its target too; doubles the time")
	flags.BoolVar(&o.copyLast, "copy-last-frame", false, "score the baseline that expects the last tubelet seen to go on")
	flags.BoolVar(&o.reencode, "reencode", false, "control: possible videos against themselves through JPEG")
	flags.BoolVar(&o.recolour, "recolour", false, "control: possible videos against themselves with colours changed")
	flags.BoolVar(&o.reversal, "time-reversal", false, "control: possible videos against themselves backwards")
	cobra.CheckErr(cmd.MarkFlagDirname("out"))
	return cmd
}

// demo reads from top to bottom what a user would do by hand.
func demo(ctx context.Context, o demoOptions, out, show io.Writer) (err error) {
	began := time.Now()
	if err := freshDemoFolder(o.out); err != nil {
		return err
	}
	root, err := filepath.Abs(o.out)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}

	fmt.Fprintln(out, "1. Clips: possible ones to train on, matched pairs to test with")
	view := newProgressView(show)
	made, err := synth.Generate(ctx, synth.Options{Dir: filepath.Join(root, "videos"), Clips: o.clips, Pairs: o.pairs, Seed: o.seed,
		Difficulty: demoDifficulty, Properties: demoProperties},
		func(done, total int) {
			if done == total || done%200 == 0 {
				view.update(&surmisev1.Progress{Phase: "drawing", Step: int32(done), Steps: int32(total)})
			}
		})
	view.close()
	if err != nil {
		return fmt.Errorf("making clips: %w", err)
	}

	fmt.Fprintln(out, "2. A coordinator and a worker, over gRPC on this machine")
	upCtx, stop := context.WithCancel(ctx)
	address, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- up(upCtx, upOptions{listen: "127.0.0.1:0", dataDir: filepath.Join(root, "state"), dataRoots: []string{root}, lease: coordinator.DefaultLeaseDuration, cache: workercmd.CacheOptions{Dir: filepath.Join(root, "state", "cache")}},
			func(a net.Addr) { address <- a })
	}()
	defer func() {
		stop()
		if stopped := <-ended; err == nil { // the worker hands back, the coordinator closes its store
			err = stopped
		}
	}()
	var client *jobsClient
	select {
	case a := <-address:
		if client, err = connect(dial.Options{Address: a.String()}); err != nil {
			return err
		}
		defer client.Close()
	case err := <-ended:
		ended <- err
		return fmt.Errorf("starting the coordinator: %w", err)
	}

	fmt.Fprintf(out, "3. Training: predict the representation of every next tubelet, %d steps\n", o.steps)
	trained, err := client.runToEnd(ctx, demoTraining(made, o), show)
	if err != nil {
		return fmt.Errorf("training: %w", err)
	}

	fmt.Fprintln(out, "4. Surprise of the held-out pairs, for the model and for its untrained twin")
	scored, err := client.runToEnd(ctx, demoScoring(made, o, trained, true), show)
	if err != nil {
		return fmt.Errorf("scoring: %w", err)
	}
	pages := reportOptions{scores: []string{artifactFile(scored, "scores")}, out: filepath.Join(root, "report"), title: "Surmise demo: which video is impossible?",
		run: filepath.Dir(artifactFile(trained, "events")), compare: compare.Options{Seed: o.seed, Aggregation: demoStatistic, Done: ctx.Done()}, fixedBy: "the demo", pairs: 8, facts: []report.Fact{{Name: "command", Value: o.command()},
			{Name: "training job", Value: trained.Name}, {Name: "scoring job", Value: scored.Name}}}
	if o.pixels {
		fmt.Fprintln(out, "   The same with pixels as target: training and scoring")
		request := demoTraining(made, o)
		request.DisplayName, request.GetTrain().Model = "demo training, pixels", &surmisev1.ModelSpec{Target: "pixels"}
		pixels, err := client.runToEnd(ctx, request, show)
		if err != nil {
			return fmt.Errorf("training on pixels: %w", err)
		}
		inPixels, err := client.runToEnd(ctx, demoScoring(made, o, pixels, false), show)
		if err != nil {
			return fmt.Errorf("scoring in pixels: %w", err)
		}
		pages.scores, pages.names = append(pages.scores, artifactFile(inPixels, "scores")), []string{"representation", "pixels"}
		pages.facts = append(pages.facts, report.Fact{Name: "pixel jobs", Value: pixels.Name + ", " + inPixels.Name})
	}

	fmt.Fprintln(out, "5. What the scores show")
	scores, err := compare.Load(pages.scores[0])
	if err != nil {
		return err
	}
	table, err := compare.Summarize(scores, pages.compare)
	if err != nil {
		return err
	}
	if err := table.WriteText(out); err != nil {
		return err
	}
	if pages.rankings, err = demoRanking(ctx, client, scores, trained, o, out); err != nil {
		return fmt.Errorf("ranking: %w", err)
	}
	took := time.Since(began).Round(time.Second)
	pages.made = fmt.Sprintf("by surmise %s in %s", version, took)
	page, err := writeReport(ctx, pages, show)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "Done in %s. Model: %s\nReport: %s\n", took, artifactFile(trained, "model"), page)
	return err
}

const (
	demoBatch  = 8 // clips: at this budget more, smaller steps beat fewer of 16 (docs/experiments.md)
	demoStride = 8 // frames between windows: half a window; every tubelet but the first is predicted in at least one
)

// One large object before a plain background, and the properties that this budget was chosen on. Wrong velocities
// (gravity, inertia, support) are not found by a model of minutes (docs/experiments.md).
const demoDifficulty = "easy"

var demoProperties = []string{"permanence", "permanence_occluded", "continuity", "continuity_occluded",
	"colour", "colour_occluded", "shape", "shape_occluded"}

// demoStatistic lays the videos of a pair over one another where they part. The largest surprise of a whole video is a
// bounce before the event in every fourth pair, and the same in both of its videos; and what a video shows costs more than
// what happens in it (docs/experiments.md).
var demoStatistic = compare.Aggregation{Name: "contrast_at_parting"}

// demoTraining is the recipe that docs/experiments.md arrived at: whole frames (the
// pairs are scored on whole frames too), everything else the default.
func demoTraining(made synth.Summary, o demoOptions) *surmisev1.SubmitJobRequest {
	var eval *surmisev1.EvalSpec
	if o.evalEvery > 0 {
		eval = &surmisev1.EvalSpec{Pairs: made.PairsCSV, Every: o.evalEvery, Stride: demoStride}
	}
	return &surmisev1.SubmitJobRequest{
		DisplayName: "demo training",
		Spec: &surmisev1.SubmitJobRequest_Train{Train: &surmisev1.TrainSpec{
			Data: []string{made.ClipsDir}, Steps: o.steps, Batch: demoBatch, Seed: o.seed, Eval: eval,
			Sampling: &surmisev1.SamplingSpec{ScaleMin: 1, ScaleMax: 1, AspectMin: 1, AspectMax: 1},
		}},
	}
}

// demoScoring scores the held-out pairs; with extras, it keeps maps and does what the flags ask for.
func demoScoring(made synth.Summary, o demoOptions, model *surmisev1.Job, extras bool) *surmisev1.SubmitJobRequest {
	return &surmisev1.SubmitJobRequest{
		DisplayName: "demo scores",
		Spec: &surmisev1.SubmitJobRequest_Score{Score: &surmisev1.ScoreSpec{
			Pairs: made.PairsCSV, Model: model.Name, Stride: demoStride, Seed: &o.seed, Maps: extras,
			CopyLastFrame: extras && o.copyLast, Reencode: extras && o.reencode, Recolour: extras && o.recolour, TimeReversal: extras && o.reversal,
		}},
	}
}

// demoRanked is how many of the held-out possible videos futures are made of: enough to see a difference, few seconds.
const demoRanked = 40

// demoRanking orders futures made of held-out possible videos, through the RPC, and prints how often the true one came
// first.
func demoRanking(ctx context.Context, client *jobsClient, scores *compare.File, model *surmisev1.Job, o demoOptions, out io.Writer) ([]report.Ranked, error) {
	spec := &surmisev1.RankSpec{Model: model.Name, Twin: true, Seed: &o.seed}
	for _, v := range scores.Videos {
		if v.Label != 1 || len(spec.Sets) >= demoRanked*len(plausibility.Makers()) {
			continue
		}
		for _, kind := range plausibility.Makers() {
			spec.Sets = append(spec.Sets, &surmisev1.RankSet{Context: scores.Location(&v), Make: kind})
		}
	}
	answer, err := surmisev1.NewPlausibilityServiceClient(client.conn).RankContinuations(ctx, &surmisev1.RankContinuationsRequest{Spec: spec})
	if err != nil {
		return nil, err
	}
	rankings := rankingsOf(answer.Rankings)
	fmt.Fprintln(out, "\nFutures of possible videos, by energy:")
	if err := writeRankSummary(out, rankings, true); err != nil {
		return nil, err
	}
	var ranked []report.Ranked
	for _, s := range plausibility.SummarizeRankings(rankings, true) {
		ranked = append(ranked, report.Ranked{Made: s.Make, Sets: s.Sets, First: s.Interval, Chance: s.Chance, Twin: s.Twin})
	}
	return ranked, nil
}

// runToEnd submits a job, shows its progress, and returns it when it has succeeded.
func (c *jobsClient) runToEnd(ctx context.Context, req *surmisev1.SubmitJobRequest, show io.Writer) (*surmisev1.Job, error) {
	job, err := c.SubmitJob(ctx, req)
	if err != nil {
		return nil, err
	}
	view := newProgressView(show)
	err = c.follow(ctx, job.Name, func(e *surmisev1.WatchJobResponse) error {
		if p := e.Job.Progress; p != nil && e.Type == surmisev1.JobEventType_JOB_PROGRESS {
			view.update(p)
		}
		return nil
	}, func() {})
	view.close()
	if err != nil {
		return nil, err
	}
	return c.GetJob(ctx, &surmisev1.GetJobRequest{Name: job.Name})
}

// artifactFile is the path of a finished job's artifact; empty if it has none of that name.
func artifactFile(job *surmisev1.Job, name string) string {
	for _, a := range job.GetResult().GetArtifacts() {
		if a.Name == name {
			return a.Path
		}
	}
	return ""
}

// demoMarker lies in a folder that a demo made, and which the next may therefore replace.
const demoMarker = ".surmise-demo"

// freshDemoFolder makes the folder, or empties what an earlier demo left in it; it
// touches no folder that somebody else filled.
func freshDemoFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return badInput(fmt.Errorf("--out: %w", err))
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, demoMarker)); err != nil {
			return badInput(fmt.Errorf("--out %s: holds files that no demo made; name another folder", dir))
		}
		for _, name := range []string{"videos", "state", "report", "report.html"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("--out: %w", err)
			}
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, demoMarker), nil, 0o644); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}
