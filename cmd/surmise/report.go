package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
	"github.com/surmise-ml/surmise/plausibility/report"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/tensorboard"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/overlay"
	"github.com/surmise-ml/surmise/worker"
)

func newReportCommand() *cobra.Command {
	var o reportOptions
	var measure string
	cmd := &cobra.Command{
		Use:   "report SCORES.json [SCORES.json…] --out DIR",
		Short: "Write a page of what scores show",
		Long: `Write what scores show into a folder: one HTML page that holds all it shows (report.html), the same numbers as JSON and CSV
(report.json, table.csv, videos.csv), figures as PNG and SVG, and, where the scores were made with --maps, a video for each
typical pair with surprise laid over its frames.

The page is about the first scores; further ones are set beside them. Of videos without labels it lists those that surprise
most, judged by --reference if that is given, and shows where they do. In place of a file, jobs/ID names a scoring job of a
coordinator; its model's training curves are found by themselves. Controls are taken from beside the scores.`,
		Args: someArguments("one score file or more"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"json"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	address := addCoordinatorFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.out, "out", "", "folder to write to; made if it is not there")
	flags.StringVar(&o.title, "title", "", "heading of the page (default the model's name)")
	flags.StringVar(&o.run, "run", "", "folder of the training run, for its curves: what 'surmise train --out' named")
	flags.StringVar(&measure, "measure", "", "as in 'surmise compare'")
	flags.IntVar(&o.within, "within", 0, "frames between peak and divergence that count as a hit (default two tubelets)")
	flags.IntVar(&o.pairs, "pairs", 8, "typical pairs to show, one a property; without labels, videos to show")
	flags.StringVar(&o.reference, "reference", "", "as in 'surmise compare'")
	flags.Uint64Var(&o.compare.Seed, "seed", 0, "seed of the bootstrap")
	flags.BoolVar(&o.noFrames, "no-frames", false, "open no videos: curves without frames")
	cobra.CheckErr(cmd.MarkFlagRequired("out"))
	cobra.CheckErr(cmd.MarkFlagDirname("out"))
	cobra.CheckErr(cmd.MarkFlagDirname("run"))
	cobra.CheckErr(cmd.MarkFlagFilename("reference", "json"))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.pairs < 0 {
			return badInput(fmt.Errorf("--pairs is %d, want 0 or more", o.pairs))
		}
		if o.within < 0 {
			return badInput(fmt.Errorf("--within is %d, want 0 or more", o.within))
		}
		if measure != "" {
			var err error
			if o.compare.Aggregation, err = compare.ParseAggregation(measure); err != nil {
				return badInput(fmt.Errorf("--measure: %w", err))
			}
		}
		for i, arg := range args {
			path := arg
			if strings.HasPrefix(arg, "jobs/") {
				run, err := scoresOfJob(cmd.Context(), *address, arg, &path)
				if err != nil {
					return err
				}
				if i == 0 && o.run == "" {
					o.run = run
				}
			}
			o.scores = append(o.scores, path)
		}
		o.made, o.compare.Done = "by surmise "+version, cmd.Context().Done()
		o.facts = []report.Fact{{Name: "command", Value: strings.Join(os.Args, " ")}}
		write := writeReport
		if unlabelled, err := o.unlabelled(); err != nil {
			return err
		} else if unlabelled {
			write = writeListing
		}
		page, err := write(cmd.Context(), o, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), page)
		return err
	}
	return cmd
}

// scoresOfJob finds the score file of a job, and the folder of the run that trained its model; "" if no job did.
func scoresOfJob(ctx context.Context, to dial.Options, name string, scores *string) (run string, err error) {
	client, err := connect(to)
	if err != nil {
		return "", err
	}
	defer client.Close()
	job, err := client.GetJob(ctx, &surmisev1.GetJobRequest{Name: name})
	if err != nil {
		return "", err
	}
	if job.GetSpec().GetScore() == nil {
		return "", badInput(fmt.Errorf("%s has no scores: it is no scoring job", name))
	}
	if *scores = artifactFile(job, "scores"); *scores == "" {
		return "", badInput(fmt.Errorf("%s has no scores: it is %s", name, job.State))
	}
	if !filepath.IsAbs(*scores) {
		return "", badInput(fmt.Errorf("the scores of %s lie in an artifact store, at %s: bring them here with 'surmise fetch', and name the file", name, *scores))
	}
	model := job.GetSpec().GetScore().GetModel()
	if !strings.HasPrefix(model, "jobs/") {
		return "", nil
	}
	trained, err := client.GetJob(ctx, &surmisev1.GetJobRequest{Name: model})
	if err != nil {
		return "", err
	}
	if events := artifactFile(trained, "events"); filepath.IsAbs(events) {
		return filepath.Dir(events), nil
	}
	return "", nil
}

type reportOptions struct {
	scores      []string        // files; the page is about the first
	files       []*compare.File // the same, by load
	reference   string          // file by which videos without labels are judged; "" for none
	names       []string        // of the models, one per file; nil: what the files are called
	out, title  string
	made        string
	run         string // of the training: events below it; "" for none
	compare     compare.Options
	fixedBy     string // what fixed the statistic; "": the default, or --measure
	within      int    // frames
	pairs       int    // to show
	noFrames    bool
	rankings    []report.Ranked
	facts       []report.Fact
	eventsFile  string // "" for events.jsonl beside the pairs, if it is there
	controlFile string // "" for what lies beside the scores, if it is there
}

// writeReport writes everything, the page last, and returns where that is. What a report can do without is left out with
// a word to notes: videos that have moved, controls and maps that were not asked for.
func writeReport(ctx context.Context, o reportOptions, notes io.Writer) (string, error) {
	page, err := o.page()
	if err != nil {
		return "", badInput(err)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return "", fmt.Errorf("--out: %w", err)
	}
	if err := removeOverlays(o.out); err != nil {
		return "", fmt.Errorf("--out: %w", err)
	}
	if err := o.addPairs(ctx, page, notes); err != nil {
		return "", err
	}
	in := func(name string) string { return filepath.Join(o.out, name) }
	saves := []func() error{
		func() error { return report.SaveJSON(in("report.json"), page) },
		func() error { return report.SaveTableCSV(in("table.csv"), page.Table) },
		func() error { return report.SaveVideosCSV(in("videos.csv"), page.File, page.Table.Aggregation) },
		func() error { return report.SavePNG(in("scores.png"), page.Table, page.Pairs) },
		func() error { return report.SaveSVG(in("scores.svg"), page.Table, page.Pairs) },
		func() error { _, err := report.SaveTraining(in("training.png"), page); return err },
		func() error { _, err := report.SaveTraining(in("training.svg"), page); return err },
		func() error { return report.Save(in("report.html"), page) },
	}
	for _, save := range saves {
		if err := save(); err != nil {
			return "", err
		}
	}
	return in("report.html"), nil
}

// load reads the score files, unless that was done.
func (o *reportOptions) load() error {
	if o.files != nil {
		return nil
	}
	for _, path := range o.scores {
		f, err := loadScores(path)
		if err != nil {
			return err
		}
		o.files = append(o.files, f)
	}
	return nil
}

// page is what can be said without opening a video.
func (o *reportOptions) page() (*report.Page, error) {
	if err := o.load(); err != nil {
		return nil, err
	}
	first := o.files[0]
	table, err := compare.Summarize(first, o.compare)
	if err != nil {
		return nil, err
	}
	if table.Controls {
		return nil, fmt.Errorf("%s: these are controls, in which nothing is impossible: name the scores that they lie beside, whose report shows them", o.scores[0])
	}
	p := &report.Page{Title: o.title, Made: o.made, Table: table, File: first, FixedBy: o.fixedBy, Rankings: o.rankings, Facts: o.facts}
	if p.Title == "" {
		p.Title = "Surprise of " + first.Sets[0].Model.Name
	}
	if len(o.files) > 1 {
		names := o.names
		if names == nil {
			for _, path := range o.scores {
				names = append(names, strings.TrimSuffix(filepath.Base(path), ".json"))
			}
		}
		if p.Baseline, err = compare.Models(o.files, names, o.compare); err != nil {
			return nil, err
		}
	}
	p.Localisation, err = compare.Localize(first, o.within, o.compare)
	if err != nil && !errors.Is(err, compare.ErrNoPlaces) {
		return nil, err
	}
	if o.controlFile == "" {
		o.controlFile = worker.Beside(o.scores[0], "controls")
	}
	switch controls, err := compare.Load(o.controlFile); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		of := o.compare
		if of.Aggregation.OfPairs() { // where two videos part; an altered copy differs from the first frame on
			of.Aggregation = compare.DefaultAggregation(controls.Spec)
		}
		if p.Controls, err = compare.Summarize(controls, of); err != nil {
			return nil, fmt.Errorf("%s: %w", o.controlFile, err)
		}
	}
	if o.run != "" {
		curves, err := tensorboard.Read(filepath.Join(o.run, "events"))
		if err != nil {
			return nil, fmt.Errorf("--run: %w", err)
		}
		p.Training, p.Evaluations = trainingSteps(curves), evaluationSteps(curves)
		p.Facts = append(p.Facts, trainingVideos(o.run)...)
	}
	return p, nil
}

// trainingVideos says what the newest checkpoint of a run was trained on, as far as its manifest can be read.
func trainingVideos(run string) []report.Fact {
	c, ok, err := checkpoint.Latest(run)
	if err != nil || !ok {
		return nil
	}
	m := c.Manifest
	return []report.Fact{
		{Name: "training, checkpoint", Value: c.Path},
		{Name: "training, videos", Value: datasetLine(m.Dataset)},
		{Name: "training, machine", Value: fmt.Sprintf("%d threads, %s", m.Threads, cmp.Or(m.Precision, "fp32"))},
	}
}

// trainingSteps are the log lines of a run.
func trainingSteps(curves map[string][]tensorboard.Point) []report.Step {
	at := map[int]*report.Step{}
	var order []int
	for name, field := range map[string]func(*report.Step) *float64{
		"train/loss":              func(s *report.Step) *float64 { return &s.Loss },
		"collapse/effective_rank": func(s *report.Step) *float64 { return &s.EffectiveRank },
		"collapse/feature_std":    func(s *report.Step) *float64 { return &s.FeatureStd },
		"collapse/cosine":         func(s *report.Step) *float64 { return &s.Cosine },
	} {
		for _, p := range curves[name] {
			if at[p.Step] == nil {
				at[p.Step] = &report.Step{Step: p.Step, Loss: math.NaN(), EffectiveRank: math.NaN(), FeatureStd: math.NaN(), Cosine: math.NaN()}
				order = append(order, p.Step)
			}
			*field(at[p.Step]) = p.Value
		}
	}
	slices.Sort(order)
	var out []report.Step
	for _, step := range order {
		out = append(out, *at[step])
	}
	return out
}

// evaluationSteps are the accuracies that were measured while training.
func evaluationSteps(curves map[string][]tensorboard.Point) []report.Evaluation {
	low, high := map[int]float64{}, map[int]float64{}
	for _, p := range curves["eval/accuracy_low"] {
		low[p.Step] = p.Value
	}
	for _, p := range curves["eval/accuracy_high"] {
		high[p.Step] = p.Value
	}
	var out []report.Evaluation
	for _, p := range curves["eval/accuracy"] {
		out = append(out, report.Evaluation{Step: p.Step, Accuracy: compare.Interval{Value: p.Value, Low: low[p.Step], High: high[p.Step]}})
	}
	return out
}

// addPairs adds typical pairs with their frames and maps, and writes their overlays.
func (o *reportOptions) addPairs(ctx context.Context, p *report.Page, notes io.Writer) error {
	f := p.File
	if o.eventsFile == "" {
		o.eventsFile = filepath.Join(f.Folder, "events.jsonl")
	}
	events, err := plausibility.ReadEvents(o.eventsFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return badInput(err)
	}
	var frames report.FrameSource
	var read func(context.Context, string, video.ReadOptions) (*video.Clip, error)
	if !o.noFrames {
		decoders, done := video.OwnPool(nil)
		defer done()
		read = asScored(decoders, f)
		frames = plausibility.Stills{Size: f.Size, Read: read}
	}
	if p.Pairs, err = report.TypicalPairs(ctx, f, p.Table.Aggregation, o.pairs, events, frames); err != nil && frames != nil && ctx.Err() == nil {
		fmt.Fprintf(notes, "frames are left out: %v\n", err)
		o.noFrames = true
		p.Pairs, err = report.TypicalPairs(ctx, f, p.Table.Aggregation, o.pairs, events, nil)
	}
	if err != nil {
		return err
	}
	if f.Maps == nil || o.noFrames {
		return nil
	}
	maps, err := heat.Load(filepath.Dir(o.scores[0]), f)
	if err != nil {
		fmt.Fprintf(notes, "maps of surprise are left out: %v\n", err)
		return nil
	}
	if err := report.AddHeat(p.Pairs, maps); err != nil {
		return err
	}
	for i := range p.Pairs {
		path := filepath.Join(o.out, fmt.Sprintf("overlay-%02d-%s%s", i+1, fileName(p.Pairs[i].Property), overlay.Extension))
		if err := writeOverlay(ctx, path, f, &p.Pairs[i], maps, read); err != nil {
			return err
		}
	}
	return nil
}

// overlayName is a file name that reports give to overlays.
var overlayName = regexp.MustCompile(`^overlay-\d{2,}(-.*)?` + regexp.QuoteMeta(overlay.Extension) + `$`)

// removeOverlays removes what an earlier report left in a folder, and would pass for videos of this one.
func removeOverlays(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if name := e.Name(); e.Type().IsRegular() && overlayName.MatchString(name) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, name)))
		}
	}
	return err
}

// asScored reads the videos of a score file as they were read for it.
func asScored(decoders *video.Pool, f *compare.File) func(context.Context, string, video.ReadOptions) (*video.Clip, error) {
	first := map[string]int{}
	for i := range f.Videos {
		first[f.Location(&f.Videos[i])] = f.Videos[i].First
	}
	return func(ctx context.Context, path string, _ video.ReadOptions) (*video.Clip, error) {
		return decoders.ReadFrames(ctx, path, video.ReadOptions{Size: f.Size, FrameStep: f.Spec.FrameStep, FPS: f.Spec.FPS, MaxFrames: f.Spec.MaxFrames,
			First: first[path], Whole: f.Spec.Crop == compare.CropWhole})
	}
}

// fileName keeps of a property what every file system takes.
func fileName(property string) string {
	keep := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}
	return strings.Map(keep, property)[:min(60, len(strings.Map(keep, property)))]
}

// writeOverlay writes a pair's videos beside one another with their surprise over them, on one scale.
func writeOverlay(ctx context.Context, path string, f *compare.File, p *report.Pair, maps *heat.Maps, read func(context.Context, string, video.ReadOptions) (*video.Clip, error)) error {
	possible, ok := maps.Of(compare.ModelSet, p.Possible.Video)
	impossible, both := maps.Of(compare.ModelSet, p.Impossible.Video)
	if !ok || !both {
		return nil // beyond what the maps hold
	}
	mark := -1
	if d := f.Videos[p.Impossible.Video].Divergence; d != nil {
		mark = d.Frame
	}
	return writeOverlays(ctx, path, f, []overlaid{{"impossible", p.Impossible, impossible}, {"possible", p.Possible, possible}}, mark, read)
}

// overlaid is a video with its surprise over it.
type overlaid struct {
	caption string
	curve   report.Curve
	heat    heat.Map
}

// writeOverlays writes videos beside one another with their surprise over them, on one scale. mark is a frame that is
// marked in time; negative for none.
func writeOverlays(ctx context.Context, path string, f *compare.File, videos []overlaid, mark int, read func(context.Context, string, video.ReadOptions) (*video.Clip, error)) error {
	var all []heat.Map
	highest := 0.0
	for _, one := range videos {
		all, highest = append(all, one.heat), max(highest, slices.Max(one.curve.Surprise))
	}
	burns := heat.ScaleOf(all...)
	var panels []overlay.Panel
	fps := 0.0
	for _, one := range videos {
		clip, err := read(ctx, f.Location(&f.Videos[one.curve.Video]), video.ReadOptions{})
		if err != nil {
			return fmt.Errorf("overlay: %w", err)
		}
		panel := overlay.Panel{Caption: one.caption, Clip: clip, Height: one.heat.Height, Width: one.heat.Width, Colour: heat.Colour}
		for frame := range clip.Frames {
			newest := -1
			for t, start := range one.curve.Seconds {
				if start <= clip.Times[frame] {
					newest = t
				}
			}
			if newest < 0 {
				panel.Over, panel.Curve = append(panel.Over, nil), append(panel.Curve, math.NaN())
				continue
			}
			grid := make([]float64, 0, one.heat.Height*one.heat.Width)
			for _, x := range one.heat.Tubelet(newest) {
				grid = append(grid, burns.At(x))
			}
			panel.Over, panel.Curve = append(panel.Over, grid), append(panel.Curve, one.curve.Surprise[newest]/highest)
		}
		panels = append(panels, panel)
		fps = max(fps, float64(clip.Frames-1)/(clip.Times[clip.Frames-1]-clip.Times[0]))
	}
	if math.IsInf(fps, 0) || math.IsNaN(fps) || fps <= 0 {
		fps = 10 // of a video whose frames have no times
	}
	return overlay.Write(path, panels, overlay.Options{FPS: min(fps, 1000), Mark: mark})
}

// datasetLine says what a model was trained on.
func datasetLine(d checkpoint.Dataset) string {
	line := fmt.Sprintf("%d files, SHA-256 of their list %s", d.Files, d.SHA256)
	if d.Content != "" {
		line += ", of what they hold " + d.Content
	}
	return line
}
