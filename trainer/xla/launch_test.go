package xla_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
)

// A run among steps that were gathered sees the weights that they end in, with its own inputs, and its update is the next
// step.
func TestRunAmongGatheredSteps(t *testing.T) {
	k := kinds["masked"]
	tr := training(t, k.config, 2, k.groups, options)
	oracle, err := graph.NewTape(tr.Program)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := machine(t, tr.Program, xla.Options{Tuning: xla.Tuning{Steps: 4}})
	for _, b := range []graph.Buffers{oracle, m} {
		setWeights(b, tr, 50)
	}
	for i := range uint64(3) {
		for _, b := range []graph.Buffers{oracle, m} {
			setInputs(t, b, tr, 50+i)
		}
		err := oracle.Run()
		if i < 2 {
			err = errors.Join(err, oracle.Update(), m.Step())
		} else {
			err = errors.Join(err, m.Run())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	near(t, "loss", m.Floats(tr.Loss), oracle.Floats(tr.Loss), 1e-4)
	if err := errors.Join(oracle.Update(), m.Update(), m.Fetch()); err != nil {
		t.Fatal(err)
	}
	for _, n := range tr.Program.State {
		if !strings.HasSuffix(n.Name(), "qkv.bias") {
			near(t, n.Name(), m.Floats(n), oracle.Floats(n), 2e-4)
		}
	}
}

// Steps whose inputs were expected are run by one module, however few of them come together.
func TestExpectedStepsCompileOnce(t *testing.T) {
	tr := maskedTraining(t)
	m, d := machine(t, tr.Program, xla.Options{Tuning: xla.Tuning{Steps: 2}})
	compiled := 0
	d.Watch = func(xla.Module) { compiled++ }
	setWeights(m, tr, 60)
	setInputs(t, m, tr, 60)
	tokens := []int{1, 4, 2, 6, 3}
	for _, n := range tokens {
		visible(t, m, tr, n)
		if err := m.Expect(); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range tokens {
		setInputs(t, m, tr, 60+uint64(i))
		visible(t, m, tr, n)
		if err := m.Step(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Wait(); err != nil {
		t.Fatal(err)
	}
	if compiled != 1 {
		t.Errorf("%d modules were compiled", compiled)
	}
}

// Runs that are laid out alike send their tables once; another layout, of the same shape or a larger one, sends its own.
func TestTablesAreSentOnce(t *testing.T) {
	c := kinds["masked"].config
	s, err := model.NewScoring(c, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	oracle, err := graph.NewTape(s.Program)
	if err != nil {
		t.Fatal(err)
	}
	m, d := machine(t, s.Program, xla.Options{})
	for _, b := range []graph.Buffers{oracle, m} {
		for name, n := range s.Params {
			copy(b.Floats(n), c.Init(3)[name])
		}
	}
	tubelets := [][]int{{1, 1}, {1, 1}, {2, 2}, {2, 2}, {1, 1}, {1, 2}} // that the windows of a run see
	tables, sent := []bool{true, false, true, false, true, true}, 0
	for run, seen := range tubelets {
		var context, pred [][]int32
		for _, n := range seen {
			visible, hidden, err := c.Future(n * c.Tubelet)
			if err != nil {
				t.Fatal(err)
			}
			context, pred = append(context, visible), append(pred, hidden)
		}
		for _, b := range []graph.Buffers{oracle, m} {
			rng := rand.New(rand.NewPCG(uint64(run), 1))
			for i := range b.Floats(s.Clip) {
				b.Floats(s.Clip)[i] = float32(rng.NormFloat64())
			}
			if err := s.Pack(b, context, pred); err != nil {
				t.Fatal(err)
			}
		}
		before := d.Uploads
		if err := errors.Join(oracle.Run(), m.Run()); err != nil {
			t.Fatal(err)
		}
		if run > 0 && (d.Uploads-before > 1) != tables[run] { // the clips, and the tables
			t.Errorf("run %d: %d uploads", run, d.Uploads-before)
		}
		sent += d.Uploads - before
		for g := range seen {
			first, last, _ := s.PredictedRows(m, g)
			near(t, fmt.Sprintf("run %d, window %d", run, g), m.Floats(s.Errors)[first:last], oracle.Floats(s.Errors)[first:last], 1e-5)
		}
	}
	t.Logf("%d uploads", sent)
}

// What cannot be compiled with fused attention is compiled without, once and for all; what cannot be compiled at all is
// an error.
func TestFusedAttentionIsOptional(t *testing.T) {
	c := small(model.Masked)
	c.Dim, c.PredDim = 48, 32 // heads of 16 features, which fused attention takes
	tr := training(t, c, 2, 2, options)
	for _, all := range []bool{false, true} {
		m, d := machine(t, tr.Program, xla.Options{Precision: xla.InBF16, Tuning: xla.Tuning{FusedAttention: true}})
		refused, compiled := 0, 0
		d.Fail = func(call string) error {
			if call == "compile" && (all || refused == 0) {
				refused++
				return errors.New("cuDNN has no such plan")
			}
			return nil
		}
		d.Watch = func(mod xla.Module) {
			compiled++
			if strings.Contains(mod.Text, "__cudnn$fmhaSoftmax") {
				t.Error("attention is still fused")
			}
		}
		setWeights(m, tr, 70)
		setInputs(t, m, tr, 70)
		err := errors.Join(m.Run(), m.Update())
		switch {
		case !all && (err != nil || refused != 1 || compiled != 2): // a run and a step
			t.Errorf("%d refused, %d compiled, %v", refused, compiled, err)
		case all && (err == nil || !strings.Contains(err.Error(), "with cuDNN's attention: ") || strings.Count(err.Error(), "cuDNN has no such plan") != 2 || refused != 2):
			t.Errorf("%d refused, %v", refused, err)
		}
	}
}
