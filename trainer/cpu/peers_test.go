package cpu

import (
	"errors"
	"math"
	"sync"
	"testing"

	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/parallel"
	"github.com/surmise-ml/surmise/trainer/parallel/paralleltest"
)

// Two machines with half of a batch each come to the losses, gradient norms and weights of one that has all of it, and
// to the same bits as each other, whatever their numbers of threads.
func TestPeers(t *testing.T) {
	for objective, groups := range groupsOf {
		t.Run(objective, func(t *testing.T) {
			const batch, steps = 6, 3
			options := model.TrainingOptions{Exponent: 1, VarianceCoeff: 0.1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}
			build := func(clips int, o Options, variance float64) (*model.Training, *Machine) {
				options.VarianceCoeff = variance
				tr, err := model.NewTraining(smallModel(objective), clips, groups, options)
				if err != nil {
					t.Fatal(err)
				}
				m, err := Compile(tr.Program, o)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = m.Close() })
				return tr, m
			}
			whole, want := build(batch, Options{Threads: 2}, 0.1)
			fill(t, want, whole, 3)
			members := paralleltest.New(2)
			parts, machines := make([]*model.Training, 2), make([]*Machine, 2)
			for i := range members {
				parts[i], machines[i] = build(batch/2, Options{Threads: 1 + i, Peers: members[i]}, 0.1/2)
				giveHalf(t, whole, want, parts[i], machines[i], i)
			}
			for step := range steps {
				if err := errors.Join(want.Run(), want.Update()); err != nil {
					t.Fatal(err)
				}
				errs := make([]error, 2)
				var both sync.WaitGroup
				for i, m := range machines {
					both.Go(func() { errs[i] = errors.Join(m.Run(), m.Update()) })
				}
				both.Wait()
				if err := errors.Join(errs...); err != nil {
					t.Fatal(err)
				}
				near := func(what string, got, want float32, tolerance float64) {
					if math.Abs(float64(got-want)) > tolerance*(1e-3+math.Abs(float64(want))) {
						t.Errorf("step %d: %s is %g, in one machine %g", step, what, got, want)
					}
				}
				for i, m := range machines {
					near("loss", m.Floats(parts[i].Loss)[0], want.Floats(whole.Loss)[0], 1e-5)
					for k, norm := range parts[i].Norms {
						near("gradient norm", m.Floats(norm)[0], want.Floats(whole.Norms[k])[0], 1e-4)
					}
				}
				for _, p := range whole.Config.Params() {
					ours := machines[0].Floats(parts[0].Params[p.Name])
					for k, x := range machines[1].Floats(parts[1].Params[p.Name]) {
						if ours[k] != x {
							t.Fatalf("step %d: %s[%d] is %g on one machine, %g on the other", step, p.Name, k, ours[k], x)
						}
						near(p.Name, x, want.Floats(whole.Params[p.Name])[k], 5e-3)
					}
				}
			}
		})
	}
}

// giveHalf gives a machine its half of the clips, masks, and all of the weights that another has.
func giveHalf(t *testing.T, whole *model.Training, from *Machine, part *model.Training, to *Machine, half int) {
	t.Helper()
	for _, p := range whole.Config.Params() {
		copy(to.Floats(part.Params[p.Name]), from.Floats(whole.Params[p.Name]))
	}
	copy(to.Floats(part.Schedule), from.Floats(whole.Schedule))
	clips := from.Floats(whole.Clip)
	copy(to.Floats(part.Clip), clips[half*len(clips)/2:(half+1)*len(clips)/2])
	visible, hidden, tokens := masksOf(whole, from)
	if len(visible) > 0 {
		n := len(visible) / 2
		visible, hidden = visible[half*n:(half+1)*n], hidden[half*n:(half+1)*n]
	}
	if err := part.PackShare(to, visible, hidden, tokens); err != nil {
		t.Fatal(err)
	}
}

// masksOf draws the masks that fill gave a machine, and packs them again.
func masksOf(tr *model.Training, m *Machine) (visible, hidden [][]int32, tokens []int) {
	g := tr.Config
	t, h, w := g.Grid()
	if g.Objective == model.NextTubelet {
		return nil, nil, []int{tr.Clips * (t - 1) * h * w}
	}
	tokens = make([]int, tr.Groups)
	n := t * h * w
	for k := range tr.Clips * tr.Groups { // of other lengths in every segment
		cut := 1 + (5*k+3)%(n-2)
		var v, p []int32
		for i := range int32(n) {
			switch token := (i*7 + int32(k)) % int32(n); {
			case int(i) < cut:
				v = append(v, token)
			case int(i) < n-k%3:
				p = append(p, token)
			}
		}
		visible, hidden = append(visible, v), append(hidden, p)
		tokens[k%tr.Groups] += len(p)
	}
	if err := tr.Pack(m, visible, hidden); err != nil {
		panic(err)
	}
	return visible, hidden, tokens
}

// A peer that has gone is an error of the run, and no weight has changed; so is a fault of one's own, which leaves nobody
// waiting inside this machine.
func TestPeersThatFail(t *testing.T) {
	tr, err := model.NewTraining(smallModel(model.NextTubelet), 2, 1, model.TrainingOptions{Exponent: 1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8})
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	for name, peers := range map[string]Peers{"at once": failing{gone, 0}, "at the scalars": failing{gone, 1 << 20}, "real": abandoned(gone)} {
		m, err := Compile(tr.Program, Options{Threads: 2, Peers: peers})
		if err != nil {
			t.Fatal(err)
		}
		fill(t, m, tr, 1)
		if err := m.Run(); !errors.Is(err, gone) {
			t.Errorf("%s: %v, want %v", name, err, gone)
		}
		if err := m.Update(); err == nil {
			t.Errorf("%s: the update of a run that failed was applied", name)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	// An offset out of range is found before the clips run; a kernel's fault in the middle of them.
	m, err := Compile(tr.Program, Options{Threads: 2, Peers: failing{nil, 0}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	fill(t, m, tr, 1)
	for i := range m.clip {
		if i == len(m.clip)/2 {
			m.clip[i] = func(*worker, int) { panic("in a kernel") }
		}
	}
	if err := m.Run(); err == nil {
		t.Error("a panic in a clip is no error")
	}
}

// failing peers give an error for sums of more than the given number of floats, and for scalars.
type failing struct {
	err  error
	from int
}

func (f failing) AddFloats(x []float32) error {
	if len(x) > f.from {
		return f.err
	}
	return nil
}
func (f failing) AddDoubles([]float64) error { return f.err }

// abandoned is a group whose other member has given up.
func abandoned(err error) parallel.Group {
	members := paralleltest.New(2)
	members[1].Abort(err)
	return members[0]
}
