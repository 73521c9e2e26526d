package plausibility

import (
	"context"
	"errors"
	"slices"

	"github.com/surmise-ml/surmise/trainer/cpu"
	"github.com/surmise-ml/surmise/trainer/model"
)

// tubelets computes what overlapping windows have in common (see model.Tubelets) once for each tubelet of a video, and
// remembers it for as long as the windows of one batch or the next need it.
type tubelets struct {
	graph   *model.Tubelets
	machine machine
	window  int // tubelets of a window
	known   map[place]*tubelet
	free    []*tubelet // memory to use again
	batches int
}

// place is where a tubelet lies: its first frame.
type place struct {
	of   Frames
	from int
}

// tubelet is what is known of one.
type tubelet struct {
	context, goal []float32 // [HW·D], [HW·TargetDim]; one and the same where they are equal
	batch         int       // number of the last batch that needed it
}

// tubelets builds the first stage for batches of windows.
func (m *Model) tubelets(batch int, o cpu.Options) (*tubelets, error) {
	window := m.Config.Frames / m.Config.Tubelet
	graph, err := model.NewTubelets(m.Config, batch+window-1) // those of windows that begin a tubelet apart
	if err != nil {
		return nil, err
	}
	machine, err := m.compile(graph.Graph, o)
	if err != nil {
		return nil, err
	}
	graph.Pack(machine)
	if err := check(machine); err != nil {
		return nil, errors.Join(err, machine.Close())
	}
	return &tubelets{graph: graph, machine: machine, window: window, known: map[place]*tubelet{}}, nil
}

// of returns the tubelets of each of a batch of windows. They are good until the next call. flops grows by the operations
// of matrix products.
func (s *tubelets) of(ctx context.Context, windows []Window, flops *float64) ([][]*tubelet, error) {
	s.batches++
	frames := s.graph.Config.Tubelet
	var wanted []place
	for _, w := range windows {
		for t := range s.window {
			wanted = append(wanted, place{w.Of, w.From + t*frames})
		}
	}
	for _, at := range wanted {
		if t := s.known[at]; t != nil {
			t.batch = s.batches
		}
	}
	for at, t := range s.known {
		if t.batch != s.batches {
			s.free = append(s.free, t)
			delete(s.known, at)
		}
	}
	var missing []place
	for _, at := range wanted {
		if s.known[at] == nil {
			s.known[at] = s.take()
			missing = append(missing, at)
		}
	}
	if err := s.compute(ctx, missing, flops); err != nil {
		s.forget()
		return nil, err
	}
	out := make([][]*tubelet, len(windows))
	for i, at := range wanted {
		out[i/s.window] = append(out[i/s.window], s.known[at])
	}
	return out, nil
}

// compute fills in tubelets that were not known.
func (s *tubelets) compute(ctx context.Context, missing []place, flops *float64) error {
	frames := s.graph.Config.Tubelet
	for batch := range slices.Chunk(missing, s.graph.Clips) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		clips := s.machine.Floats(s.graph.Clip)
		size := len(clips) / s.graph.Clips
		for i, at := range batch {
			at.of.Normalize(clips[i*size:(i+1)*size], at.from, frames)
		}
		if err := s.machine.SetClips(len(batch)); err != nil {
			return err
		}
		if err := s.machine.Run(); err != nil {
			return err
		}
		*flops += s.machine.ProductFLOPs()
		context, goal := s.machine.Floats(s.graph.Context), s.machine.Floats(s.graph.Goal)
		for i, at := range batch {
			t := s.known[at]
			copy(t.context, context[i*len(t.context):])
			if s.graph.Goal != s.graph.Context {
				copy(t.goal, goal[i*len(t.goal):])
			}
		}
	}
	return nil
}

// take returns room for a tubelet.
func (s *tubelets) take() *tubelet {
	if last := len(s.free) - 1; last >= 0 {
		t := s.free[last]
		s.free = s.free[:last]
		t.batch = s.batches
		return t
	}
	c := s.graph.Config
	_, h, w := c.Grid()
	t := &tubelet{context: make([]float32, h*w*c.Dim), batch: s.batches}
	t.goal = t.context
	if s.graph.Goal != s.graph.Context {
		t.goal = make([]float32, h*w*c.TargetDim())
	}
	return t
}

// forget drops all that is known: the weights are others now.
func (s *tubelets) forget() {
	for at, t := range s.known {
		s.free = append(s.free, t)
		delete(s.known, at)
	}
}
