package trainer

import (
	"errors"
	"fmt"
	"math"

	"github.com/surmise-ml/surmise/trainer/checkpoint"
	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
	"github.com/surmise-ml/surmise/video"
)

// stepper takes optimiser steps of one model on one machine.
type stepper struct {
	cfg         Config
	precision   cpu.Precision // that cfg.Precision means here
	model       *model.Training
	m           graph.Machine
	pipeline    *xla.Machine       // m, where it goes on while figures are on their way; nil: a machine that is asked after every step
	asBytes     bool               // the pipeline is given clips as bytes
	due         func(int) bool     // the steps after which a pipeline is asked for figures; nil: all
	dataset     checkpoint.Dataset // what its clips are cut from
	resumedFrom string             // path of the checkpoint it began with; empty after a fresh start
	startsFrom  *checkpoint.Model  // whose weights a run without a checkpoint begins with; nil: fresh ones
	encoder     *frozenEncoder     // nil: the encoder is trained
	share       share              // of every batch
}

// figures are what one step measures.
type figures struct {
	pending              bool // not there yet, nor is it known whether the step was taken; see stepper.due
	loss, jepa, variance float64
	norms                [2]float64 // gradient norm of encoder and predictor, before clipping
}

// newTraining builds the training graph that a config asks for, with groups mask groups, for one of so many processes.
func newTraining(cfg Config, groups, processes int) (*model.Training, error) {
	// The regulariser is a mean over clips, and what the processes compute is added up.
	return model.NewTraining(cfg.Model, cfg.Batch/processes, groups, model.TrainingOptions{
		Exponent: cfg.LossExponent, VarianceCoeff: cfg.VarianceCoeff / float64(processes), Beta1: beta1, Beta2: beta2, Eps: adamEps})
}

// step takes step number n, counted from 1, on this process's clips of it, as bytes where s.asBytes says so, or what a feed of
// a frozen encoder gives in their place, with the masks of all clips of the batch (see model.Graph.Pack). A loss or gradient that
// is not finite is an error, and then no weight has changed.
func (s *stepper) step(n int, clips video.Batch, visible, hidden [][]int32) (figures, error) {
	var f figures
	if err := s.input(n, clips); err != nil {
		return f, fmt.Errorf("step %d: %w", n, err)
	}
	t, h, w := s.cfg.Model.Grid()
	tokens := s.share.tokens(hidden, s.model.Groups, (t-1)*h*w)
	if err := s.model.PackShare(s.m, of(s.share, visible), of(s.share, hidden), tokens); err != nil {
		return f, fmt.Errorf("step %d: %w", n, err)
	}
	s.cfg.schedule(n, s.m.Floats(s.model.Schedule))
	if s.pipeline != nil {
		return s.pipelined(n)
	}
	if err := s.m.Run(); err != nil {
		return f, fmt.Errorf("step %d: %w", n, err)
	}
	f = s.figures()
	if what, value, finite := f.notFinite(); !finite {
		e := &NotFiniteError{What: what, Value: value, Step: n}
		if m, ok := s.m.(nonFiniteFinder); ok {
			if op, tensor, found := m.FirstNonFinite(); found {
				e.Op, e.Tensor = op, tensor
			}
		}
		return f, e
	}
	if err := s.m.Update(); err != nil {
		return f, fmt.Errorf("step %d: %w", n, err)
	}
	return f, nil
}

// figures reads what the machine has of the newest step.
func (s *stepper) figures() (f figures) {
	f.loss = float64(s.m.Floats(s.model.Loss)[0])
	f.jepa = float64(s.m.Floats(s.model.LossJEPA)[0])
	f.variance = float64(s.m.Floats(s.model.LossVariance)[0]) / float64(max(1, s.share.size)) // a mean over clips of each process
	for i, norm := range s.model.Norms {
		if norm == nil {
			continue
		}
		f.norms[i] = math.Sqrt(float64(s.m.Floats(norm)[0]))
	}
	return f
}

// pipelined starts step n, whose inputs are set, and where figures are due waits for it and all before it. The machine
// itself leaves the weights as they were before a step whose figures are not finite.
func (s *stepper) pipelined(n int) (figures, error) {
	if err := s.pipeline.Step(); err != nil {
		return figures{}, fmt.Errorf("step %d: %w", n, s.tooLarge(err))
	}
	if s.due != nil && !s.due(n) {
		return figures{pending: true}, nil
	}
	err := s.pipeline.Wait()
	f := s.figures()
	if stopped := (*xla.StoppedError)(nil); errors.As(err, &stopped) {
		what, value, _ := f.notFinite()
		return f, &NotFiniteError{What: what, Value: value, Step: n - stopped.Steps + 1 + stopped.Step}
	}
	if err == nil {
		err = s.pipeline.Fetch(s.model.Target) // for the monitors
	}
	if err != nil {
		return f, fmt.Errorf("step %d: %w", n, s.tooLarge(err))
	}
	return f, nil
}

// input gives the machine the clips of step n.
func (s *stepper) input(n int, clips video.Batch) error {
	if s.encoder != nil {
		return s.encoder.input(s.m, s.model, s.share.first(n, s.cfg.Batch), clips.Floats)
	}
	if s.asBytes {
		return fill(s.pipeline.Bytes(s.model.Clip), clips.Bytes)
	}
	return fill(s.m.Floats(s.model.Clip), clips.Floats)
}

func fill[T byte | float32](input, clips []T) error {
	if len(clips) != len(input) {
		return fmt.Errorf("clips of %d values, want %d", len(clips), len(input))
	}
	copy(input, clips)
	return nil
}

// close frees the machines.
func (s *stepper) close() error {
	err := s.m.Close()
	if s.encoder != nil {
		err = errors.Join(err, s.encoder.close())
	}
	if s.startsFrom != nil {
		err = errors.Join(err, s.startsFrom.Close())
	}
	return err
}

// nonFiniteFinder is a machine that can say where the values of its newest run, which no
// update has followed, stopped being finite: the first operation in the order of the run
// that made such a value, and the tensor it wrote. ok is false if it finds none.
type nonFiniteFinder interface {
	FirstNonFinite() (op, tensor string, ok bool)
}

// NotFiniteError ends a run whose loss or gradients are no longer numbers.
type NotFiniteError struct {
	What  string // the result that shows it, such as "loss"
	Value float64
	Step  int // counted from 1

	// Where it began: the first operation with a value that is not finite, and the tensor
	// it wrote. Empty if the machine could not tell.
	Op, Tensor string
}

func (e *NotFiniteError) Error() string {
	from := ""
	if e.Op != "" || e.Tensor != "" {
		from = fmt.Sprintf(": operation %s was the first to give a value that is not finite, in tensor %s", e.Op, e.Tensor)
	}
	return fmt.Sprintf("step %d: %s is %g%s; the weights were left as they were: lower learning_rate, or set clip_norm", e.Step, e.What, e.Value, from)
}

// notFinite returns the first figure that is no finite number.
func (f figures) notFinite() (what string, value float64, finite bool) {
	for _, x := range []struct {
		what  string
		value float64
	}{
		{"loss", f.loss}, {"variance regulariser", f.variance},
		{"gradient norm of the encoder", f.norms[0]}, {"gradient norm of the predictor", f.norms[1]},
	} {
		if math.IsNaN(x.value) || math.IsInf(x.value, 0) {
			return x.what, x.value, false
		}
	}
	return "", 0, true
}
