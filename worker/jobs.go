package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/surmise-ml/surmise/internal/durable"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/trainer"
	"github.com/surmise-ml/surmise/trainer/parallel"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/video"
)

// Names of artifacts, as job.proto states them.
const (
	modelArtifact    = "model"
	verdictsArtifact = "verdicts"
	scoresArtifact   = "scores"
	mapsArtifact     = "maps"
	controlsArtifact = "controls"
	rankingArtifact  = "ranking"

	eventsArtifact      = "events"
	evaluationsArtifact = "evaluations"
)

// Jobs is the Runner that trains, scores and ranks. A training attempt's folder holds checkpoints/step-…/ and
// verdicts.json, a scoring attempt's scores.json with what lies beside it, a ranking attempt's ranking.json.
type Jobs struct {
	DataRoots []string    // the only folders below which a job may name files; empty: any
	Decoders  *video.Pool // that read the videos; nil: each job has its own

	Features *trainer.Features // keeps what frozen encoders give of clips; nil: nothing is kept

	// Group is the processes that do a training job together (see trainer.Hooks.Group); nil: this one alone. All of them
	// call Train; what it reports and writes, the first one does.
	Group parallel.Group
	// Open opens the accelerator that a job's device asks for, which the job closes; a nil device is the CPU. See
	// GPUs.Open. nil: jobs run on the CPU.
	Open func(device string) (xla.Device, error)

	Now func() time.Time // clock of event files; nil: time.Now
}

func (j Jobs) now() time.Time {
	if j.Now == nil {
		return time.Now()
	}
	return j.Now()
}

// Run implements Runner.
func (j Jobs) Run(ctx context.Context, a Assignment, r Reports) (*surmisev1.Result, error) {
	if !filepath.IsAbs(a.ArtifactDir) {
		return nil, infrastructure("artifact folder %q is not an absolute path", a.ArtifactDir)
	}
	if err := os.MkdirAll(a.ArtifactDir, 0o755); err != nil {
		return nil, infrastructure("making the artifact folder: %w", err)
	}
	switch kind := a.Spec.GetKind().(type) {
	case *surmisev1.JobSpec_Train:
		return j.runTrain(ctx, kind.Train, a, r)
	case *surmisev1.JobSpec_Score:
		return j.runScore(ctx, kind.Score, a, r)
	case *surmisev1.JobSpec_Rank:
		return j.runRank(ctx, kind.Rank, a, r)
	}
	return nil, fmt.Errorf("job %s asks for neither training, scoring nor ranking: this worker is older than the coordinator", a.Job)
}

func (j Jobs) runTrain(ctx context.Context, spec *surmisev1.TrainSpec, a Assignment, r Reports) (*surmisev1.Result, error) {
	dir := filepath.Join(a.ArtifactDir, "checkpoints")
	if a.ResumeFrom != nil {
		err := adoptCheckpoints(a.ResumeFrom, dir)
		if err == nil {
			err = adoptCurves(filepath.Dir(filepath.Clean(a.ResumeFrom.GetPath())), dir)
		}
		if err != nil {
			return nil, infrastructure("resuming from step %d of an earlier attempt: %w", a.ResumeFrom.GetStep(), err)
		}
	}
	verdicts := filepath.Join(a.ArtifactDir, verdictsFile)
	result, err := j.train(ctx, spec, a.ModelPath, dir, verdicts, r)
	if err != nil {
		return nil, err
	}
	artifact, err := fileArtifact(verdictsArtifact, verdicts)
	if err != nil {
		return nil, infrastructure("%w", err)
	}
	out := &surmisev1.Result{
		Artifacts: []*surmisev1.Artifact{{Name: modelArtifact, Path: result.Checkpoint}, artifact, {Name: eventsArtifact, Path: filepath.Join(dir, eventsArtifact)}},
		Metrics:   trainMetrics(result.Last),
	}
	if spec.GetEval() != nil {
		out.Artifacts = append(out.Artifacts, &surmisev1.Artifact{Name: evaluationsArtifact, Path: filepath.Join(dir, evaluationsArtifact)})
	}
	return out, nil
}

func (j Jobs) runScore(ctx context.Context, spec *surmisev1.ScoreSpec, a Assignment, r Reports) (*surmisev1.Result, error) {
	path := filepath.Join(a.ArtifactDir, "scores.json")
	scores, err := j.Score(ctx, spec, a.ModelPath, path, r)
	if err != nil {
		return nil, err
	}
	metrics, err := metricsOf(ctx, scores, spec.GetSeed())
	if err != nil {
		return nil, err
	}
	result := &surmisev1.Result{Metrics: metrics}
	for _, name := range []string{scoresArtifact, mapsArtifact, controlsArtifact} {
		file := path
		if name != scoresArtifact {
			file = Beside(path, name)
		}
		artifact, err := fileArtifact(name, file)
		if errors.Is(err, os.ErrNotExist) && name != scoresArtifact {
			continue // not asked for
		}
		if err != nil {
			return nil, infrastructure("%w", err)
		}
		result.Artifacts = append(result.Artifacts, artifact)
	}
	return result, nil
}

// fileArtifact describes a file that is on disk.
func fileArtifact(name, path string) (*surmisev1.Artifact, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", name, err)
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", name, err)
	}
	return &surmisev1.Artifact{Name: name, Path: path, Size: size, Sha256: hex.EncodeToString(h.Sum(nil))}, nil
}

// writeJSON writes a file whole or not at all.
func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return durable.WriteBytes(path, 0o644, append(text, '\n'))
}

// adoptCheckpoints gives an attempt the checkpoints of the one before it: the named one and, in case that is damaged,
// those beside it that are older. Files are linked where the file system can, else copied; a checkpoint appears whole.
func adoptCheckpoints(from *surmisev1.Checkpoint, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	newest := filepath.Clean(from.GetPath())
	if err := adopt(newest, dir); err != nil {
		return err
	}
	beside, err := filepath.Glob(filepath.Join(filepath.Dir(newest), "step-*"))
	if err != nil {
		return err
	}
	for _, path := range beside {
		if filepath.Base(path) >= filepath.Base(newest) { // step numbers are padded
			continue
		}
		if err := adopt(path, dir); errors.Is(err, os.ErrNotExist) {
			continue // being pruned
		} else if err != nil {
			return err
		}
	}
	return durable.Sync(dir)
}

// adoptCurves gives an attempt the event files and evaluations of the one before it, which may still be writing: copies of
// what is there now. What it did after the checkpoint is done again.
func adoptCurves(from, dir string) error {
	for _, name := range []string{eventsArtifact, evaluationsArtifact} {
		files, err := os.ReadDir(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
		for _, file := range files {
			if !file.Type().IsRegular() || strings.HasPrefix(file.Name(), ".") {
				continue
			}
			data, err := os.ReadFile(filepath.Join(from, name, file.Name()))
			if err != nil {
				return err
			}
			if err := durable.WriteBytes(filepath.Join(dir, name, file.Name()), 0o644, data); err != nil {
				return err
			}
		}
	}
	return nil
}

// adopt places one checkpoint folder into dir.
func adopt(checkpoint, dir string) error {
	final := filepath.Join(dir, filepath.Base(checkpoint))
	if _, err := os.Stat(final); err == nil {
		return nil // this attempt was begun before
	}
	temp := filepath.Join(dir, durable.Unfinished+filepath.Base(checkpoint))
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	files, err := os.ReadDir(checkpoint)
	if err != nil {
		return err
	}
	if err := os.Mkdir(temp, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(temp) // gone once renamed
	for _, file := range files {
		if !file.Type().IsRegular() {
			continue
		}
		if err := linkOrCopy(filepath.Join(checkpoint, file.Name()), filepath.Join(temp, file.Name())); err != nil {
			return err
		}
	}
	if err := durable.Sync(temp); err != nil {
		return err
	}
	return os.Rename(temp, final)
}

func linkOrCopy(from, to string) error {
	if err := os.Link(from, to); err == nil || errors.Is(err, os.ErrNotExist) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}
