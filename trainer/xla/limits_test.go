package xla_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
)

// maskedTraining is a small masked model, whose shapes change with its masks.
func maskedTraining(t *testing.T) *model.Training {
	return training(t, kinds["masked"].config, 4, 2, model.TrainingOptions{Exponent: 1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8})
}

// visible lays a batch out whose every segment has so many visible tokens, and all others hidden.
func visible(t *testing.T, m graph.Buffers, tr *model.Training, tokens int) {
	t.Helper()
	var context, pred [][]int32
	for range tr.Clips * tr.Groups {
		var all []int32
		for i := range tr.Config.Tokens() {
			all = append(all, int32(i))
		}
		context, pred = append(context, all[:tokens]), append(pred, all[tokens:])
	}
	if err := tr.Pack(m, context, pred); err != nil {
		t.Fatal(err)
	}
}

// Masks with more tokens than a module was made for get a larger one; with fewer, they use the one that is there. Nothing
// of a former module is left.
func TestShapesGrow(t *testing.T) {
	tr := maskedTraining(t)
	m, d := machine(t, tr.Program, xla.Options{})
	var compiled []xla.Module
	d.Watch = func(m xla.Module) { compiled = append(compiled, m) }
	setWeights(m, tr, 1)
	setInputs(t, m, tr, 1)
	for i, c := range []struct{ visible, compiled int }{{5, 1}, {5, 1}, {9, 2}, {9, 2}, {20, 3}, {12, 3}, {26, 4}} {
		visible(t, m, tr, c.visible)
		if err := m.Run(); err != nil {
			t.Fatal(err)
		}
		if len(compiled) != c.compiled {
			t.Errorf("%d: %d visible tokens: %d modules were compiled, want %d", i, c.visible, len(compiled), c.compiled)
		}
		if _, executables := d.Open(); executables != 1 {
			t.Errorf("%d: %d executables are open", i, executables)
		}
	}
	if first, last := compiled[0].Text, compiled[len(compiled)-1].Text; len(first) == 0 || first == last {
		t.Error("the modules are the same")
	}
}

// What the masks or indices may not be is found before anything is sent.
func TestInputsThatCannotBe(t *testing.T) {
	tr := maskedTraining(t)
	m, d := machine(t, tr.Program, xla.Options{})
	setWeights(m, tr, 1)
	input := map[string][]int32{}
	setInputs(t, m, tr, 1)
	for _, n := range tr.Program.Inputs {
		if x := m.Ints(n); x != nil {
			input[n.Name()] = slices.Clone(x)
		}
	}
	for name, spoil := range map[string]func(x []int32){
		"context offsets: the first is 1":       func(x []int32) { x[0] = 1 },
		"context offsets: number 3 is":          func(x []int32) { x[3] = x[2] - 1 },
		"both offsets: number 8 is 1000":        func(x []int32) { x[8] = 1000 },
		"context token: 27 in segment 0":        func(x []int32) { x[0] = 27 },
		"context place: -1 in segment 0":        func(x []int32) { x[0] = -1 },
		"mask token: number 0 is 2, want 0":     func(x []int32) { x[0] = 2 },
		"pred token: number 0 is 99, want 0 to": func(x []int32) { x[0] = 99 },
	} {
		for _, n := range tr.Program.Inputs {
			if x := m.Ints(n); x != nil {
				copy(x, input[n.Name()])
				if strings.HasPrefix(name, n.Name()+":") {
					spoil(x)
				}
			}
		}
		if err := m.Run(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
		if err := m.Update(); err == nil || !strings.Contains(err.Error(), "no successful run") {
			t.Errorf("an update after a run that failed: %v", err)
		}
	}
	if d.Uploads > 0 {
		t.Errorf("%d uploads", d.Uploads)
	}
}

// A device that fails, at any call, makes an error that says what was being done; nothing is left open (see machine).
func TestEveryFailureIsToldAndCleanedUp(t *testing.T) {
	tr := maskedTraining(t)
	tr.Program.Results = append(tr.Program.Results, tr.Target)
	for _, call := range []string{"compile", "upload", "run", "download"} {
		for after := range 3 {
			t.Run(fmt.Sprintf("%s %d", call, after), func(t *testing.T) {
				m, d := machine(t, tr.Program, xla.Options{})
				setWeights(m, tr, 1)
				setInputs(t, m, tr, 1)
				broken, seen := errors.New("the device is broken"), 0
				d.Fail = func(c string) error {
					if c != call {
						return nil
					}
					if seen++; seen > after {
						return broken
					}
					return nil
				}
				err := m.Step()
				for i := 0; err == nil && i < 4; i++ {
					setInputs(t, m, tr, 1)
					if err = m.Step(); err == nil {
						err = m.Fetch()
					}
				}
				if call == "compile" && after > 0 { // one module serves
					return
				}
				if !errors.Is(err, broken) {
					t.Fatalf("got %v", err)
				}
			})
		}
	}
}

// Memory that runs out on the device makes an error with the sizes and the batch that would fit.
func TestOutOfMemory(t *testing.T) {
	tr := maskedTraining(t)
	m, d := machine(t, tr.Program, xla.Options{})
	setWeights(m, tr, 1)
	setInputs(t, m, tr, 1)
	d.Fail = func(call string) error {
		if call == "run" {
			return &xla.OutOfMemoryError{What: "running it", Wanted: 1 << 31, Free: 1 << 20, Total: 2 << 20, Err: errors.New("RESOURCE_EXHAUSTED: no room")}
		}
		return nil
	}
	err := m.Run()
	var tooLarge *xla.TooLargeError
	if !errors.As(err, &tooLarge) || tooLarge.Clips != 4 || tooLarge.Needs.State == 0 {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"a batch of 4 clips takes", "weights and moments", "RESOURCE_EXHAUSTED: no room", "running it does not fit", "2 GiB"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

// The estimate grows with the batch, and so what fits follows.
func TestTheEstimateSaysWhatFits(t *testing.T) {
	var totals []int64
	for _, clips := range []int{2, 4, 8} {
		tr := training(t, kinds["masked"].config, clips, 2, options)
		m, d := machine(t, tr.Program, xla.Options{})
		setInputs(t, m, tr, 1)
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		totals = append(totals, m.Memory().Total())
		if clips < 8 {
			continue
		}
		d.Free = totals[1] // what four take
		var tooLarge *xla.TooLargeError
		if err := m.Check(); !errors.As(err, &tooLarge) || tooLarge.Fits < 3 || tooLarge.Fits > 5 {
			t.Errorf("got %v, want that about 4 fit", err)
		}
	}
	if totals[0] >= totals[1] || totals[1] >= totals[2] {
		t.Errorf("%d bytes for 2, 4 and 8 clips", totals)
	}
}

// Attention that cuDNN does not take is reckoned with its scores, whether cuDNN is asked or not.
func TestTheEstimateKnowsWhatIsFused(t *testing.T) {
	temporary := func(features int, fused bool) int64 {
		c := small(model.Masked)
		c.Size, c.Heads, c.Dim, c.PredDim = 64, 4, 4*features, 2*features
		tr := training(t, c, 2, 2, options)
		m, _ := machine(t, tr.Program, xla.Options{Precision: xla.InBF16, Tuning: xla.Tuning{FusedAttention: fused}})
		setInputs(t, m, tr, 1)
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		return m.Memory().Temporary
	}
	if with, without := temporary(16, true), temporary(16, false); with >= without {
		t.Errorf("heads of 16 features take %d bytes fused, %d otherwise", with, without)
	}
	if with, without := temporary(12, true), temporary(12, false); with != without {
		t.Errorf("heads of 12 features, which are never fused, take %d and %d bytes", with, without)
	}
}

// State that cannot be read is memory of its length all the same, and the next run says why it was not.
func TestStateThatCannotBeRead(t *testing.T) {
	tr := maskedTraining(t)
	m, d := machine(t, tr.Program, xla.Options{})
	setWeights(m, tr, 1)
	setInputs(t, m, tr, 1)
	if err := errors.Join(m.Step(), m.Wait()); err != nil {
		t.Fatal(err)
	}
	d.Fail = func(call string) error {
		if call == "download" {
			return errors.New("the cable is out")
		}
		return nil
	}
	n := tr.Program.State[0]
	if got := m.Floats(n); len(got) != n.Shape().TotalSize() {
		t.Errorf("%d numbers, want %d", len(got), n.Shape().TotalSize())
	}
	d.Fail = nil
	if err := m.Run(); err == nil || !strings.Contains(err.Error(), "the cable is out") {
		t.Errorf("the next run: %v", err)
	}
}

// Bytes become numbers on the device.
func TestPixels(t *testing.T) {
	c := kinds["masked"].config
	e, err := model.NewEmbedding(c, 2, model.EncoderPrefix)
	if err != nil {
		t.Fatal(err)
	}
	px := xla.Pixels{Scale: []float32{0.01, 0.02, 0.03}, Shift: []float32{-1, 0, 0.5}}
	plain, d := machine(t, e.Program, xla.Options{})
	bytes, _ := machine(t, e.Program, xla.Options{Pixels: map[*G.Node]xla.Pixels{e.Clip: px}})
	if bytes.Floats(e.Clip) != nil || plain.Bytes(e.Clip) != nil {
		t.Error("the clip can be given both ways")
	}
	plane := c.Frames * c.Size * c.Size
	for _, m := range []*xla.Machine{plain, bytes} {
		for name, n := range e.Params {
			copy(m.Floats(n), c.Init(3)[name])
		}
		e.Pack(m)
	}
	for i := range bytes.Bytes(e.Clip) {
		b := byte(i * 7)
		bytes.Bytes(e.Clip)[i] = b
		ch := i / plane % 3
		plain.Floats(e.Clip)[i] = float32(b)*px.Scale[ch] + px.Shift[ch]
	}
	for _, m := range []*xla.Machine{plain, bytes} {
		if err := m.Run(); err != nil {
			t.Fatal(err)
		}
	}
	near(t, "tokens", bytes.Floats(e.Tokens), plain.Floats(e.Tokens), 1e-6)
	if _, err := xla.New(t.Context(), e.Program, d, xla.Options{Pixels: map[*G.Node]xla.Pixels{e.Clip: {}}}); err == nil {
		t.Error("pixels without channels passed")
	}
}

// The operations that are counted are those of the products.
func TestProductFLOPs(t *testing.T) {
	tr := training(t, kinds["next tubelet"].config, 2, 1, options)
	m, _ := machine(t, tr.Program, xla.Options{})
	setWeights(m, tr, 1)
	setInputs(t, m, tr, 1)
	if err := m.Run(); err != nil {
		t.Fatal(err)
	}
	var want float64
	for _, n := range tr.Program.State { // a rough count: every weight of a matrix meets every token, three times in what is trained
		if n.Dims() == 2 && strings.HasSuffix(n.Name(), ".weight") && !strings.Contains(n.Name(), "moment") {
			times := 3.0
			if strings.HasPrefix(n.Name(), model.TargetPrefix) {
				times = 1
			}
			want += 2 * times * float64(n.Shape().TotalSize()) * float64(tr.Clips*tr.Config.Tokens())
		}
	}
	if got := m.ProductFLOPs(); !(got > 0.7*want && got < 1.3*want) || math.IsNaN(got) {
		t.Errorf("%.3g operations, by the weights %.3g", got, want)
	}
}

func TestRoofline(t *testing.T) {
	_, d := machine(t, maskedTraining(t).Program, xla.Options{})
	for _, p := range []xla.Precision{xla.InFP32, xla.InBF16, xla.InTF32} {
		if f, err := xla.Roofline(t.Context(), d, p, 16, 1); err != nil || !(f > 0) {
			t.Errorf("%s: %g FLOP/s, %v", p, f, err)
		}
	}
}
