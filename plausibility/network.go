package plausibility

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
)

// machine runs a graph on the first clips of a batch.
type machine interface {
	graph.Machine
	SetClips(n int) error
	ProductFLOPs() float64
}

// Network is a model on a machine, ready to score windows. It implements
// Predictor for one caller at a time.
//
// It works in two stages: tubelets, once for each one of a video, and windows, on what the first gave. The errors of a
// window are the same to the last bit whatever other windows are scored with it.
type Network struct {
	spec      Spec
	config    model.Config
	tubelets  *tubelets
	scoring   *model.Scoring
	machine   machine // of scoring; nil where tubelets are all that is needed: copying in a next_tubelet model
	batch     int
	precision cpu.Precision // fp32 or bf16; tf32 on an accelerator
	copyLast  bool          // see CopyLast
	inPlace   bool          // it has no weights of its own
	flops     float64       // of matrix products, in all calls
	usual     bool          // the machine's tokens are laid out for the contexts of the spec
}

// Network builds the model for batches of windows of a spec. It must be closed. The
// precision may be another than the model was trained in.
func (m *Model) Network(spec Spec, batch int, o cpu.Options) (*Network, error) {
	return m.network(spec, batch, o, false)
}

func (m *Model) network(spec Spec, batch int, o cpu.Options, copyLast bool) (_ *Network, err error) {
	spec = spec.WithDefaults()
	next := m.Config.Objective == model.NextTubelet
	switch {
	case spec.Window != m.Config.Frames:
		return nil, fmt.Errorf("spec.window: %d frames, the model takes %d", spec.Window, m.Config.Frames)
	case next && len(spec.Contexts) > 0:
		return nil, fmt.Errorf("spec.contexts: %v, want none for a %s model", spec.Contexts, m.Config.Objective)
	case !next && len(spec.Contexts) == 0:
		return nil, fmt.Errorf("spec.contexts: none, a %s model needs at least one", m.Config.Objective)
	}
	if height, width := m.Config.Frame(); height != width {
		return nil, fmt.Errorf("the model takes frames of %d×%d px; only square ones can be scored", height, width)
	}
	scoring, err := model.NewTubeletScoring(m.Config, batch, max(1, len(spec.Contexts)))
	if err != nil {
		return nil, err
	}
	if o.Precision, err = m.resolve(o.Precision); err != nil {
		return nil, err
	}
	n := &Network{spec: spec, config: m.Config, scoring: scoring, batch: batch, precision: o.Precision, copyLast: copyLast, inPlace: m.inPlace && m.Device == nil}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.tubelets, err = m.tubelets(batch, o); err != nil {
		return nil, fits(err, batch)
	}
	if copyLast && next {
		return n, nil
	}
	if copyLast {
		scoring.TargetsAlone()
	}
	if o.Memory > 0 {
		o.Memory = max(1, o.Memory-bytesOf(n.tubelets.machine))
	}
	if n.machine, err = m.compile(scoring.Graph, o); err != nil {
		return nil, fits(err, batch)
	}
	if err := n.layOut(nil); err != nil {
		return nil, err
	}
	return n, check(n.machine)
}

// fits says what to do about a model that is too large.
func fits(err error, batch int) error {
	var tooLarge *cpu.MemoryError
	if errors.As(err, &tooLarge) {
		return fmt.Errorf("the model is too large to score batches of %d windows: %w: lower threads, give fewer contexts, or score a smaller model", batch, err)
	}
	return err
}

// Reload gives the network the weights of another model of the same config. A network of a
// model that was opened, or of a twin, reads weights where they lie, and has no others.
func (n *Network) Reload(m *Model) error {
	if n.inPlace {
		return errors.New("reload: the network reads its model's weights in place")
	}
	n.tubelets.forget()
	err := load(n.tubelets.machine, n.tubelets.graph.Graph, m)
	if err == nil && n.machine != nil {
		err = load(n.machine, n.scoring.Graph, m)
	}
	return err
}

// layOut lays out the tokens of a batch of windows, each at as many contexts as the spec has; those that are not given are
// at the spec's.
func (n *Network) layOut(batch []Window) error {
	var context, pred [][]int32
	for b := range n.batch {
		contexts := n.spec.Contexts
		if b < len(batch) && batch[b].Contexts != nil {
			contexts = batch[b].Contexts
		}
		for i := range n.spec.Contexts {
			frames := contexts[min(i, len(contexts)-1)]
			c, p, err := n.config.Future(frames)
			if err != nil {
				return fmt.Errorf("spec.contexts: %w", err)
			}
			context, pred = append(context, c), append(pred, p)
		}
	}
	n.usual = !ofTheirOwn(batch)
	return n.scoring.Pack(n.machine, context, pred)
}

func ofTheirOwn(windows []Window) bool {
	return slices.ContainsFunc(windows, func(w Window) bool { return w.Contexts != nil })
}

// Surprise implements Predictor.
func (n *Network) Surprise(ctx context.Context, windows []Window) ([]WindowErrors, error) {
	parts, of := n.split(windows)
	out := make([]WindowErrors, len(windows))
	for batch := range slices.Chunk(parts, n.batch) {
		encoded, err := n.tubelets.of(ctx, batch, &n.flops)
		if err != nil {
			return nil, fmt.Errorf("score windows: %w", err)
		}
		if n.machine != nil {
			if err := n.run(batch, encoded); err != nil {
				return nil, fmt.Errorf("score windows: %w", err)
			}
		}
		for b, w := range batch {
			errs, err := n.windowErrors(b, w, encoded[b])
			if err != nil {
				return nil, err
			}
			out[of[b]] = append(out[of[b]], errs...)
		}
		of = of[len(batch):]
	}
	return out, nil
}

// split makes windows with more contexts of their own than the spec has into several of as many at most, and says of
// which window each is a part.
func (n *Network) split(windows []Window) (parts []Window, of []int) {
	for i, w := range windows {
		if w.Contexts == nil {
			parts, of = append(parts, w), append(of, i)
			continue
		}
		for contexts := range slices.Chunk(w.Contexts, max(1, len(n.spec.Contexts))) {
			parts, of = append(parts, Window{w.Of, w.From, contexts}), append(of, i)
		}
	}
	return parts, of
}

// run predicts a batch of windows from their tubelets.
func (n *Network) run(batch []Window, encoded [][]*tubelet) error {
	if ofTheirOwn(batch) || !n.usual {
		if err := n.layOut(batch); err != nil {
			return err
		}
	}
	context, goal := n.machine.Floats(n.scoring.Context), n.machine.Floats(n.scoring.Goal)
	for _, window := range encoded {
		for _, t := range window[:n.scoring.ContextTubelets] {
			context = context[copy(context, t.context):]
		}
		for _, t := range window[n.scoring.FirstGoal:] {
			goal = goal[copy(goal, t.goal):]
		}
	}
	if err := n.machine.SetClips(len(encoded)); err != nil {
		return err
	}
	if err := n.machine.Run(); err != nil {
		return err
	}
	n.flops += n.machine.ProductFLOPs()
	return nil
}

// windowErrors copies the errors of window b of a batch out of the machine.
func (n *Network) windowErrors(b int, w Window, encoded []*tubelet) (WindowErrors, error) {
	contexts := n.spec.Contexts
	if w.Contexts != nil {
		contexts = w.Contexts
	}
	if n.copyLast {
		return n.copyErrors(b, contexts, encoded)
	}
	out := make(WindowErrors, max(1, len(contexts)))
	for g := range out {
		first, last, tokens := n.scoring.PredictedRows(n.machine, b*n.scoring.Groups+g)
		out[g] = ContextErrors{Tokens: slices.Clone(tokens), Errors: slices.Clone(n.machine.Floats(n.scoring.Errors)[first:last])}
		if len(contexts) > 0 {
			out[g].Context = contexts[g]
		}
	}
	return out, nil
}

// Precision is what the network computes in: fp32 or bf16; tf32 on an accelerator.
func (n *Network) Precision() cpu.Precision { return n.precision }

// bytes are those of its machines' buffers.
func (n *Network) bytes() int {
	return int(bytesOf(n.tubelets.machine) + bytesOf(n.machine))
}

// bytesOf is the memory that a machine takes, or on an accelerator is reckoned to take; 0 of none.
func bytesOf(m machine) int64 {
	switch m := m.(type) {
	case *cpu.Machine:
		return int64(m.Bytes())
	case *xla.Machine:
		return m.Memory().Total()
	}
	return 0
}

// check has an accelerator say now whether a machine fits it, rather than with the first run.
func check(m machine) error {
	if on, ok := m.(*xla.Machine); ok {
		return on.Check()
	}
	return nil
}

// Close frees the machines.
func (n *Network) Close() error {
	var err error
	if n.tubelets != nil {
		err = n.tubelets.machine.Close()
	}
	if n.machine != nil {
		err = errors.Join(err, n.machine.Close())
	}
	return err
}
