package model

import (
	"fmt"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// Pack writes a batch's token layout into a machine's inputs. For Masked, context and
// pred hold, for every segment (clip-major: clip 0 group 0, clip 0 group 1, …), the
// indices of its visible and hidden tokens in the T,H,W grid; for
// NextTubelet both must be empty, since every clip has the same layout.
//
// Loss weights make the loss the mean over groups of the mean over all of a group's
// predicted tokens in the batch and their features, as published.
func (g *Graph) Pack(m graph.Buffers, context, pred [][]int32) error {
	return g.PackShare(m, context, pred, nil)
}

// PackShare is Pack for clips that are a part of a batch: tokens, [groups], says how many tokens are predicted in
// the whole batch; nil: in these clips. The losses of all parts add up to the batch's.
func (g *Graph) PackShare(m graph.Buffers, context, pred [][]int32, tokens []int) error {
	if tokens != nil && len(tokens) != g.Groups {
		return fmt.Errorf("pack: tokens of %d mask groups, want %d", len(tokens), g.Groups)
	}
	n := g.Config.Tokens()
	if g.Config.Objective == NextTubelet {
		if len(context)+len(pred) > 0 {
			return fmt.Errorf("pack: objective %s takes no masks, got %d", NextTubelet, len(context)+len(pred))
		}
		g.packNext(m)
		g.weigh(m, g.clipTokens(tokens))
		return nil
	}
	s := g.Clips * g.Groups
	if len(context) != s || len(pred) != s {
		return fmt.Errorf("pack: %d visible and %d hidden token lists, want %d each (%d clips with %d groups)", len(context), len(pred), s, g.Clips, g.Groups)
	}
	g.packFull(m)
	var nc, np int
	predicted := make([]int, g.Groups)
	contextToken, contextPlace, predToken, predPlace, maskToken := m.Ints(g.contextToken), m.Ints(g.contextPlace), m.Ints(g.predToken), m.Ints(g.predPlace), m.Ints(g.maskToken)
	for k := range s {
		if err := checkTokens(context[k], pred[k], n); err != nil {
			return fmt.Errorf("pack: clip %d, mask group %d: %w", k/g.Groups, k%g.Groups, err)
		}
		for i, token := range context[k] {
			contextToken[nc+i], contextPlace[nc+i] = token, int32(i)
		}
		mask := int32(k % g.Groups % g.Config.MaskTokens)
		if g.firstMaskTokenForAllSegments || g.Config.MaskToken == MaskTokenFirst {
			mask = 0
		}
		if g.bothToken != nil {
			both := m.Ints(g.bothToken)[nc+np:]
			copy(both[copy(both, context[k]):], pred[k])
		}
		for i, token := range pred[k] {
			predToken[np+i], predPlace[np+i] = token, int32(len(context[k])+i)
			maskToken[np+i] = mask
		}
		nc, np = nc+len(context[k]), np+len(pred[k])
		predicted[k%g.Groups] += len(pred[k])
		m.Ints(g.context.offsets)[k+1] = int32(nc)
		m.Ints(g.pred.offsets)[k+1] = int32(np)
		m.Ints(g.both.offsets)[k+1] = int32(nc + np)
	}
	if tokens != nil {
		predicted = tokens
	}
	g.weigh(m, predicted)
	return nil
}

// weigh writes the loss weights of a batch in which so many tokens are predicted in each mask group.
func (g *Graph) weigh(m graph.Buffers, predicted []int) {
	if g.weights == nil {
		return
	}
	for k, w := 0, m.Floats(g.weights); k < len(w); k++ {
		w[k] = float32(1 / float64(g.Groups*predicted[k%g.Groups]*g.Config.TargetDim()))
	}
}

// clipTokens is how many tokens are predicted in all clips of a batch, those of the graph unless tokens says otherwise.
func (g *Graph) clipTokens(tokens []int) []int {
	if tokens != nil {
		return tokens
	}
	t, h, w := g.Config.Grid()
	return []int{g.Clips * (t - 1) * h * w}
}

// packFull lays out whole clips. A graph on tubelets that are encoded already has no use for some of it, and no such inputs.
func (g *Graph) packFull(m graph.Buffers) {
	t, h, w := g.Config.Grid()
	ramp(m.Ints(g.full.offsets), t*h*w)
	for i := range m.Ints(g.fullToken) {
		m.Ints(g.fullToken)[i] = int32(i % (t * h * w))
	}
	if g.tubelets != nil { // the encoder sees tubelets one by one
		ramp(m.Ints(g.tubelets), h*w)
		for i := range m.Ints(g.fullSpace) {
			m.Ints(g.fullSpace)[i] = int32(i % (h * w))
		}
	}
}

// packNext lays out full clips whose every tubelet but the first is predicted.
func (g *Graph) packNext(m graph.Buffers) {
	t, h, w := g.Config.Grid()
	n, area := t*h*w, h*w
	g.packFull(m)
	ramp(m.Ints(g.next.offsets), n-area)
	for i := range m.Ints(g.nextFrom) {
		m.Ints(g.nextFrom)[i] = int32(i % (n - area))
		m.Ints(g.nextTo)[i] = int32(i%(n-area) + area)
	}
}

// ramp fills offsets with multiples of step.
func ramp(offsets []int32, step int) {
	for i := range offsets {
		offsets[i] = int32(i * step)
	}
}

// checkTokens wants two lists of tokens in [0,n), neither empty, no token in both or twice.
func checkTokens(context, pred []int32, n int) error {
	seen := make([]bool, n)
	for _, list := range []struct {
		name   string
		tokens []int32
	}{{"visible", context}, {"hidden", pred}} {
		if len(list.tokens) == 0 {
			return fmt.Errorf("no %s token", list.name)
		}
		for _, token := range list.tokens {
			if token < 0 || int(token) >= n {
				return fmt.Errorf("%s token %d, want 0 to %d", list.name, token, n-1)
			}
			if seen[token] {
				return fmt.Errorf("%s token %d is listed twice", list.name, token)
			}
			seen[token] = true
		}
	}
	return nil
}

// Future returns the tokens of a clip's first frames as visible and all later ones as
// hidden: how surprise is measured at a context length (Garrido et al. 2025).
func (c Config) Future(frames int) (context, pred []int32, err error) {
	if frames < 1 || frames >= c.Frames || frames%c.Tubelet != 0 {
		return nil, nil, fmt.Errorf("context of %d frames, want a multiple of %d below %d", frames, c.Tubelet, c.Frames)
	}
	_, h, w := c.Grid()
	for i := range int32(c.Tokens()) {
		if int(i) < frames/c.Tubelet*h*w {
			context = append(context, i)
		} else {
			pred = append(pred, i)
		}
	}
	return context, pred, nil
}

// PredictedRows returns where segment k's predictions are in Pred: rows first up to
// last, and the token index each row predicts.
func (g *Graph) PredictedRows(m graph.Buffers, k int) (first, last int, tokens []int32) {
	off := m.Ints(g.predicted.offsets)
	first, last = int(off[k]), int(off[k+1])
	return first, last, m.Ints(g.predictedToken())[first:last]
}

func (g *Graph) predictedToken() *G.Node {
	if g.Config.Objective == NextTubelet {
		return g.nextTo
	}
	return g.predToken
}
