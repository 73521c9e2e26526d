package sweep_test

import (
	"math"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/coordinator/sweep"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

func rules(t *testing.T, settings string) sweep.Rules {
	t.Helper()
	r, err := sweep.Complete(request(t, `{"train":{"data":["d"]},`+settings+`}`))
	if err != nil {
		t.Fatal(err)
	}
	return sweep.RulesOf(r)
}

func TestRungsAreReachedByTrainingSteps(t *testing.T) {
	r := rules(t, `"halving":{"min_steps":10}`)
	at := func(phase string, step int32, loss float64) *surmisev1.Progress {
		return &surmisev1.Progress{Phase: phase, Step: step, Loss: loss}
	}
	for name, c := range map[string]struct {
		progress *surmisev1.Progress
		rung     int
		ok       bool
	}{
		"before the first":      {at("training", 9, 1), 0, false},
		"at the first":          {at("training", 10, 1), 0, true},
		"before the second":     {at("training", 29, 1), 0, true},
		"at the second":         {at("training", 30, 1), 1, true},
		"far on":                {at("training", math.MaxInt32, 1), 17, true},
		"videos are no steps":   {at("indexing", 100, 1), 0, false},
		"no loss yet":           {at("training", 30, 0), 0, false},
		"a loss that is no one": {at("training", 30, math.NaN()), 0, false},
	} {
		if rung, value, ok := r.Rung(c.progress); ok != c.ok || ok && (rung != c.rung || value != 1) {
			if !c.ok && !ok {
				continue
			}
			t.Errorf("%s: rung %d, value %g, %v; want %d, %v", name, rung, value, ok, c.rung, c.ok)
		}
	}

	byAccuracy := rules(t, `"halving":{"min_steps":10,"reduction":2},"metric":{"name":"evaluation.accuracy","goal":"MAXIMIZE"}`)
	p := &surmisev1.Progress{Phase: "training", Step: 25, Evaluation: &surmisev1.Evaluation{Step: 10, Accuracy: 0}}
	if _, _, ok := byAccuracy.Rung(p); ok {
		t.Error("an evaluation at step 10 was taken for one at the rung of 20 steps")
	}
	p.Evaluation.Step = 20
	if rung, value, ok := byAccuracy.Rung(p); !ok || rung != 1 || value != 0 {
		t.Errorf("rung %d, value %g, %v; want 1, 0 (an accuracy like any other), true", rung, value, ok)
	}
}

func TestTheBestThirdGoesOn(t *testing.T) {
	r := rules(t, `"halving":{"min_steps":10}`)
	var values []float64
	var on []bool
	for _, v := range []float64{5, 6, 4, 3, 5, 2, 2, 9, 1} {
		values = append(values, v)
		on = append(on, r.Behind(0, v, values) == "")
	}
	// The first two always; then those among the best n/3 of the n so far.
	want := []bool{true, true, true, true, false, true, true, false, true}
	for i := range want {
		if on[i] != want[i] {
			t.Errorf("child %d with %g after %v: goes on %v, want %v", i, values[i], values[:i], on[i], want[i])
		}
	}
	if why := r.Behind(1, 9, []float64{9, 1, 2}); !strings.Contains(why, "loss 9 at step 30 is number 3 of 3, and the best 1 go on") {
		t.Errorf("the reason is %q", why)
	}
}

func TestCollapse(t *testing.T) {
	r := rules(t, `"collapse":{"min_effective_rank":2,"after_steps":50}`)
	for name, c := range map[string]struct {
		p    *surmisev1.Progress
		want bool
	}{
		"collapsed": {&surmisev1.Progress{Phase: "training", Step: 50, EffectiveRank: 1.9}, true},
		"too early": {&surmisev1.Progress{Phase: "training", Step: 49, EffectiveRank: 1.9}, false},
		"alive":     {&surmisev1.Progress{Phase: "training", Step: 50, EffectiveRank: 2}, false},
		"not told":  {&surmisev1.Progress{Phase: "training", Step: 50}, false},
		"indexing":  {&surmisev1.Progress{Phase: "indexing", Step: 50, EffectiveRank: 1}, false},
	} {
		if why := r.Collapsed(c.p); (why != "") != c.want || c.want && !strings.Contains(why, "collapsed: effective rank 1.9 at step 50 is below 2") {
			t.Errorf("%s: %q", name, why)
		}
	}
}
