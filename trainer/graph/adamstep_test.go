package graph

import (
	"strings"
	"testing"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// What belongs together is found, and what does not fit is named.
func TestAdamSteps(t *testing.T) {
	g := G.NewGraph()
	vector := func(name string, n int) *G.Node {
		return G.NewTensor(g, tensor.Float32, 1, G.WithShape(n), G.WithName(name))
	}
	must := func(n *G.Node, err error) *G.Node {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	w, m, v, average := vector("w", 3), vector("m", 3), vector("v", 3), vector("average", 3)
	gradient, factor, schedule := vector("gradient", 3), vector("factor", 1), vector("schedule", ScheduleLen)
	first := must(FirstMoment(m, gradient, factor, 0.9))
	second := must(SecondMoment(v, gradient, factor, 0.99))
	step := must(AdamW(w, first, second, schedule, 1e-8, true))
	whole := []Update{{m, first}, {v, second}, {w, step}, {average, must(EMA(average, step, schedule))}}

	steps, err := AdamSteps(whole)
	want := AdamStep{Weights: w, First: m, Second: v, Target: average, Gradient: gradient, Factor: factor, Schedule: schedule, TargetSchedule: schedule,
		Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, Decays: true}
	if err != nil || len(steps) != 1 || steps[0] != want {
		t.Errorf("got %+v, %v, want %+v", steps, err, want)
	}

	other := vector("other", 3)
	foreignFirst := must(FirstMoment(other, gradient, factor, 0.9))
	foreignGradient := must(SecondMoment(v, other, factor, 0.99))
	for words, updates := range map[string][]Update{
		"update of w is not an AdamW step of its own moments": {{m, foreignFirst}, {v, second}, {w, must(AdamW(w, foreignFirst, second, schedule, 0, true))}},
		"update of w: its moments are of different gradients": {{m, first}, {v, foreignGradient}, {w, must(AdamW(w, first, foreignGradient, schedule, 0, true))}},
		"update of average is not a moving average":           {whole[0], whole[1], whole[2], {average, must(EMA(other, step, schedule))}},
		"1 of 1 updates are not part":                         {whole[0]},
		"update of other is not an AdamW step":                {whole[0], whole[1], {other, step}},
	} {
		if _, err := AdamSteps(updates); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("got %v, want %q", err, words)
		}
	}
}
