package masking

import (
	"math"
	"testing"

	"github.com/surmise-ml/surmise/internal/golden"
)

// stat is the mean of a token count in the published collator's run.
type stat struct {
	Mean float64 `json:"mean"`
	Std  float64 `json:"std"`
	SE   float64 `json:"se_of_mean"` // clips of a batch share a block size, so not std/√n
	N    int     `json:"n"`
}

type goldenStats struct {
	Batches   int `json:"batches"`
	BatchSize int `json:"batch_size"`
	Configs   []struct {
		Grid [3]int `json:"grid_thw"`
		Mask struct {
			BlockSpec
			MaxTemporalKeep float64 `json:"max_temporal_keep"`
		} `json:"mask"`
		ContextBefore  stat    `json:"context_before_truncation"`
		TargetBefore   stat    `json:"predicted_before_truncation"`
		ContextAfter   stat    `json:"context_after_truncation_per_batch"`
		TargetAfter    stat    `json:"predicted_after_truncation_per_batch"`
		ContextDropped stat    `json:"context_tokens_dropped_per_sample"`
		TargetDropped  stat    `json:"predicted_tokens_dropped_per_sample"`
		ContextTheory  float64 `json:"context_before_truncation_mean_theory"`
		Sizes          []struct {
			Size        [3]int  `json:"size"`
			Probability float64 `json:"probability"`
		} `json:"block_sizes_thw_probability_theory"`
		ContextRate []float64 `json:"mean_keep_rate_by_time_step_context_after"`   // [T]
		TargetRate  []float64 `json:"mean_keep_rate_by_time_step_predicted_after"` // [T]
		FirstSizes  []struct {
			Uniforms [3]float64 `json:"uniforms"`
			Size     [3]int     `json:"size_thw"`
		} `json:"block_size_by_counter_first50"`
	} `json:"configs"`
}

func readGolden(t *testing.T) goldenStats {
	t.Helper()
	var published goldenStats
	golden.JSON(t, "masks_stats.json", &published)
	if len(published.Configs) == 0 {
		t.Fatal("masks_stats.json holds no configuration")
	}
	return published
}

// sample accumulates values that are independent of each other.
type sample struct{ n, sum, squares float64 }

func (s *sample) add(x float64) { s.n, s.sum, s.squares = s.n+1, s.sum+x, s.squares+x*x }
func (s *sample) mean() float64 { return s.sum / s.n }
func (s *sample) std() float64 {
	return math.Sqrt(max(0, (s.squares-s.n*square(s.mean()))/(s.n-1)))
}

// The statistics of the published collator, 500 batches, against ours over
// four times as many. 4 standard errors of the difference: a correct generator fails
// one of the about 100 comparisons in 150 such files.
func TestGoldenMultiBlockStatistics(t *testing.T) {
	const (
		batches   = 2000
		tolerance = 4.0 // standard errors
	)
	published := readGolden(t)
	for _, c := range published.Configs {
		if c.Mask.MaxTemporalKeep != 1 {
			t.Fatalf("max_temporal_keep %v is not supported", c.Mask.MaxTemporalKeep)
		}
		g := Grid{T: c.Grid[0], H: c.Grid[1], W: c.Grid[2]}
		gen, err := New(Spec{Kind: KindMultiBlock, Blocks: []BlockSpec{c.Mask.BlockSpec}}, g)
		if err != nil {
			t.Fatal(err)
		}

		// One value per batch: the clips of a batch are not independent.
		var contextBefore, targetBefore, contextAfter, targetAfter, contextDropped, targetDropped sample
		var contextSpread, targetSpread sample // one value per clip, for the spread between clips
		contextRate, targetRate := make([]sample, g.T), make([]sample, g.T)
		for seed := range uint64(batches) {
			batch, err := Batch(gen, seed, published.BatchSize)
			if err != nil {
				t.Fatal(err)
			}
			cut := Truncate(batch)
			clips := float64(len(batch))
			var context, target float64
			contextAt, targetAt := make([]float64, g.T), make([]float64, g.T)
			for i := range batch {
				context += float64(len(batch[i][0].Context)) / clips
				target += float64(len(batch[i][0].Target)) / clips
				contextSpread.add(float64(len(batch[i][0].Context)))
				targetSpread.add(float64(len(batch[i][0].Target)))
				share := 1 / (clips * float64(g.H*g.W))
				for _, token := range cut[i][0].Context {
					contextAt[int(token)/(g.H*g.W)] += share
				}
				for _, token := range cut[i][0].Target {
					targetAt[int(token)/(g.H*g.W)] += share
				}
			}
			contextBefore.add(context)
			targetBefore.add(target)
			kept, predicted := float64(len(cut[0][0].Context)), float64(len(cut[0][0].Target))
			contextAfter.add(kept)
			targetAfter.add(predicted)
			contextDropped.add(context - kept)
			targetDropped.add(target - predicted)
			for step := range g.T {
				contextRate[step].add(contextAt[step])
				targetRate[step].add(targetAt[step])
			}
		}

		compare := func(what string, got *sample, want, wantSE float64) {
			t.Helper()
			ourSE := got.std() / math.Sqrt(got.n)
			limit := tolerance*math.Hypot(ourSE, wantSE) + 1e-9
			if d := math.Abs(got.mean() - want); d > limit {
				t.Errorf("grid %v, scale %v: %s is %.4f, published %.4f: apart by %.4f, more than %.4f",
					c.Grid, c.Mask.SpatialScale, what, got.mean(), want, d, limit)
			}
		}
		compare("context before truncation", &contextBefore, c.ContextBefore.Mean, c.ContextBefore.SE)
		compare("target before truncation", &targetBefore, c.TargetBefore.Mean, c.TargetBefore.SE)
		compare("context after truncation", &contextAfter, c.ContextAfter.Mean, c.ContextAfter.SE)
		compare("target after truncation", &targetAfter, c.TargetAfter.Mean, c.TargetAfter.SE)
		compare("context tokens dropped", &contextDropped, c.ContextDropped.Mean, c.ContextDropped.SE)
		compare("target tokens dropped", &targetDropped, c.TargetDropped.Mean, c.TargetDropped.SE)
		for step := range g.T {
			// The file gives no error of the rates: that of 500 of our batches.
			root := math.Sqrt(float64(published.Batches))
			compare("context rate by time", &contextRate[step], c.ContextRate[step], contextRate[step].std()/root)
			compare("target rate by time", &targetRate[step], c.TargetRate[step], targetRate[step].std()/root)
		}
		// The spread between clips, to 10 %: the error of a standard deviation over 500 batches is below 3 %.
		for _, s := range []struct{ got, want float64 }{
			{contextSpread.std(), c.ContextBefore.Std}, {targetSpread.std(), c.TargetBefore.Std},
			{contextAfter.std(), c.ContextAfter.Std}, {targetAfter.std(), c.TargetAfter.Std},
		} {
			if math.Abs(s.got/s.want-1) > 0.1 {
				t.Errorf("grid %v, scale %v: spread %.4f, published %.4f", c.Grid, c.Mask.SpatialScale, s.got, s.want)
			}
		}
	}
}

// A block size drawn per clip has the distribution of one drawn per batch.
func TestGoldenMultiBlockPerClip(t *testing.T) {
	published := readGolden(t)
	for _, c := range published.Configs {
		g := Grid{T: c.Grid[0], H: c.Grid[1], W: c.Grid[2]}
		gen, err := New(Spec{Kind: KindMultiBlock, Blocks: []BlockSpec{c.Mask.BlockSpec}}, g)
		if err != nil {
			t.Fatal(err)
		}
		m := gen.(*multiBlock)
		const clips = 20000
		var context sample
		sizes := make(map[[3]int]float64)
		for seed := range uint64(clips) {
			masks, err := gen.Masks(seed)
			if err != nil {
				t.Fatal(err)
			}
			context.add(float64(len(masks[0].Context)))
			s := m.sizes(newRand(seed, 0))[0]
			sizes[[3]int{s.t, s.h, s.w}]++
		}
		if d, limit := math.Abs(context.mean()-c.ContextTheory), 4*context.std()/math.Sqrt(clips); d > limit {
			t.Errorf("grid %v, scale %v: context %.3f, derived %.3f: more than %.3f apart",
				c.Grid, c.Mask.SpatialScale, context.mean(), c.ContextTheory, limit)
		}
		for _, want := range c.Sizes {
			p := want.Probability
			if d := math.Abs(sizes[want.Size]/clips - p); d > 4*math.Sqrt(p*(1-p)/clips)+1e-5 {
				t.Errorf("grid %v, scale %v: block size %v has share %.4f, derived %.4f",
					c.Grid, c.Mask.SpatialScale, want.Size, sizes[want.Size]/clips, p)
			}
			delete(sizes, want.Size)
		}
		for size := range sizes {
			t.Errorf("grid %v, scale %v: block size %v is never drawn in the published code", c.Grid, c.Mask.SpatialScale, size)
		}
	}
}

// From the published code's random numbers, its block sizes exactly.
func TestGoldenBlockSizes(t *testing.T) {
	for _, c := range readGolden(t).Configs {
		g := Grid{T: c.Grid[0], H: c.Grid[1], W: c.Grid[2]}
		b, err := c.Mask.withDefaults(0, g)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.FirstSizes) == 0 {
			t.Error("no block sizes to compare")
		}
		for _, f := range c.FirstSizes {
			got := b.size(g, f.Uniforms[0], f.Uniforms[1], f.Uniforms[2])
			if want := (size{t: f.Size[0], h: f.Size[1], w: f.Size[2]}); got != want {
				t.Errorf("grid %v, scale %v, uniforms %v: block %+v, published %+v", c.Grid, c.Mask.SpatialScale, f.Uniforms, got, want)
			}
		}
	}
}
