package masking

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// checkMask fails unless context and target are not empty, ascending, and
// together hold every token of the grid exactly once.
func checkMask(t rapid.TB, g Grid, m Mask) {
	t.Helper()
	if len(m.Context) == 0 || len(m.Target) == 0 {
		t.Fatalf("%d context and %d target tokens, want some of each", len(m.Context), len(m.Target))
	}
	if len(m.Context)+len(m.Target) != g.Tokens() {
		t.Fatalf("%d context and %d target tokens, want %d in all", len(m.Context), len(m.Target), g.Tokens())
	}
	seen := make([]bool, g.Tokens())
	for _, list := range [][]int32{m.Context, m.Target} {
		for i, token := range list {
			if token < 0 || int(token) >= g.Tokens() {
				t.Fatalf("token %d is outside the grid of %d", token, g.Tokens())
			}
			if i > 0 && list[i-1] >= token {
				t.Fatalf("token %d follows %d, want ascending order", token, list[i-1])
			}
			if seen[token] {
				t.Fatalf("token %d is both in the context and in the target", token)
			}
			seen[token] = true
		}
	}
}

func anyGrid(t *rapid.T) Grid {
	return Grid{
		T: rapid.IntRange(1, 9).Draw(t, "T"),
		H: rapid.IntRange(1, 15).Draw(t, "H"),
		W: rapid.IntRange(1, 15).Draw(t, "W"),
	}
}

func anyRange(t *rapid.T, low, high float64, name string) [2]float64 {
	a := rapid.Float64Range(low, high).Draw(t, name+".low")
	return [2]float64{a, rapid.Float64Range(a, high).Draw(t, name+".high")}
}

func anySpec(t *rapid.T, g Grid) Spec {
	spec := Spec{Kind: rapid.SampledFrom([]string{KindMultiBlock, KindTube, KindCausal}).Draw(t, "kind")}
	switch spec.Kind {
	case KindMultiBlock:
		for range rapid.IntRange(0, 3).Draw(t, "groups") {
			spec.Blocks = append(spec.Blocks, BlockSpec{
				NumBlocks:     rapid.IntRange(1, 12).Draw(t, "num_blocks"),
				SpatialScale:  anyRange(t, 0.01, 1, "spatial"),
				TemporalScale: anyRange(t, 0.01, 1, "temporal"),
				AspectRatio:   anyRange(t, 0.1, 10, "aspect"),
			})
		}
	case KindTube:
		spec.Ratio = rapid.Float64Range(0.01, 0.99).Draw(t, "ratio")
	case KindCausal:
		spec.ContextTubelets = rapid.SliceOfN(rapid.IntRange(1, max(1, g.T-1)), 0, 4).Draw(t, "context_tubelets")
	}
	return spec
}

// Every setting that New accepts gives whole masks, the same for the same seed,
// alone and in a batch.
func TestMasksAreWholeAndSeeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := anyGrid(t)
		spec := anySpec(t, g)
		gen, err := New(spec, g)
		if err != nil {
			var field *FieldError
			if !errors.As(err, &field) || field.Field == "" {
				t.Fatalf("New(%+v, %+v): %v does not name a field", spec, g, err)
			}
			return
		}
		seed := rapid.Uint64().Draw(t, "seed")
		masks, err := gen.Masks(seed)
		if err != nil {
			t.Fatal(err)
		}
		again, err := gen.Masks(seed)
		if err != nil {
			t.Fatal(err)
		}
		batch, err := Batch(gen, seed, 3)
		if err != nil {
			t.Fatal(err)
		}
		if !equalMasks(masks, again) {
			t.Fatal("the same seed gave other masks")
		}
		for _, clip := range append(batch, masks) {
			if len(clip) != gen.Groups() {
				t.Fatalf("%d masks, want %d groups", len(clip), gen.Groups())
			}
			for _, m := range clip {
				checkMask(t, g, m)
			}
		}
		longer, err := Batch(gen, seed, 4)
		if err != nil {
			t.Fatal(err)
		}
		for i := range batch {
			if !equalMasks(batch[i], longer[i]) {
				t.Fatalf("masks of clip %d depend on the batch size", i)
			}
		}
	})
}

func equalMasks(a, b []Mask) bool {
	return slices.EqualFunc(a, b, func(a, b Mask) bool {
		return slices.Equal(a.Context, b.Context) && slices.Equal(a.Target, b.Target)
	})
}

// One block hides exactly t·h·w tokens, n blocks at most n times as many.
func TestMultiBlockCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := anyGrid(t)
		b := BlockSpec{
			NumBlocks:     rapid.IntRange(1, 4).Draw(t, "num_blocks"),
			SpatialScale:  anyRange(t, 0.01, 1, "spatial"),
			TemporalScale: anyRange(t, 0.01, 1, "temporal"),
		}
		gen, err := New(Spec{Kind: KindMultiBlock, Blocks: []BlockSpec{b}}, g)
		if err != nil {
			return
		}
		m := gen.(*multiBlock)
		seed := rapid.Uint64().Draw(t, "seed")
		s := m.sizes(newRand(seed, 0))[0]
		one := s.t * s.h * s.w
		masks, err := gen.Masks(seed)
		if err != nil {
			t.Fatal(err)
		}
		got := len(masks[0].Target)
		if b.NumBlocks == 1 && got != one {
			t.Fatalf("one block of %+v hides %d tokens, want %d", s, got, one)
		}
		if got < one || got > b.NumBlocks*one {
			t.Fatalf("%d blocks of %+v hide %d tokens", b.NumBlocks, s, got)
		}
	})
}

func TestTubeHidesTheSamePatchesInEveryTubelet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := anyGrid(t)
		ratio := rapid.Float64Range(0.01, 0.99).Draw(t, "ratio")
		gen, err := New(Spec{Kind: KindTube, Ratio: ratio}, g)
		if err != nil {
			return
		}
		masks, err := gen.Masks(rapid.Uint64().Draw(t, "seed"))
		if err != nil {
			t.Fatal(err)
		}
		patches := g.H * g.W
		keep := int(float64(patches) * (1 - ratio))
		context := masks[0].Context
		if len(context) != keep*g.T {
			t.Fatalf("%d tokens kept, want %d in each of %d tubelets", len(context), keep, g.T)
		}
		for i, token := range context {
			if want := context[i%keep] + int32(i/keep*patches); token != want {
				t.Fatalf("kept token %d is %d, want %d", i, token, want)
			}
		}
	})
}

func TestCausalSeesTheFirstTubelets(t *testing.T) {
	g := Grid{T: 4, H: 2, W: 3}
	gen, err := New(Spec{Kind: KindCausal, ContextTubelets: []int{1, 3}}, g)
	if err != nil {
		t.Fatal(err)
	}
	masks, err := gen.Masks(0)
	if err != nil {
		t.Fatal(err)
	}
	for i, seen := range []int32{6, 18} {
		checkMask(t, g, masks[i])
		if first := masks[i].Target[0]; first != seen {
			t.Errorf("group %d predicts from token %d on, want %d", i, first, seen)
		}
	}
}

func TestNextTubeletHasNoMasks(t *testing.T) {
	gen, err := New(Spec{Kind: KindNextTubelet}, Grid{T: 8, H: 8, W: 8})
	if err != nil {
		t.Fatal(err)
	}
	masks, err := gen.Masks(1)
	if err != nil || gen.Groups() != 0 || len(masks) != 0 {
		t.Errorf("Groups() = %d, Masks() = %v, %v; want none", gen.Groups(), masks, err)
	}
}

// A seed must matter, and neighbouring seeds must not give related masks.
func TestSeedsDiffer(t *testing.T) {
	for _, spec := range []Spec{{Kind: KindMultiBlock}, {Kind: KindTube, Ratio: 0.75}} {
		gen, err := New(spec, Grid{T: 8, H: 14, W: 14})
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]bool)
		for seed := range uint64(200) {
			masks, err := gen.Masks(seed)
			if err != nil {
				t.Fatal(err)
			}
			var key strings.Builder
			for _, token := range masks[0].Context {
				key.WriteRune(token)
			}
			seen[key.String()] = true
		}
		if len(seen) < 199 {
			t.Errorf("%s: 200 seeds gave %d different masks", spec.Kind, len(seen))
		}
	}
}

func TestTruncateCutsToTheBatchMinimum(t *testing.T) {
	batch := [][]Mask{
		{{Context: []int32{0, 2, 4}, Target: []int32{1, 3, 5}}, {Context: []int32{0}, Target: []int32{1, 2, 3, 4, 5}}},
		{{Context: []int32{3, 4, 5, 1}, Target: []int32{0, 2}}, {Context: []int32{4, 5}, Target: []int32{0, 1, 2, 3}}},
	}
	want := [][]Mask{
		{{Context: []int32{0, 2, 4}, Target: []int32{1, 3}}, {Context: []int32{0}, Target: []int32{1, 2, 3, 4}}},
		{{Context: []int32{3, 4, 5}, Target: []int32{0, 2}}, {Context: []int32{4}, Target: []int32{0, 1, 2, 3}}},
	}
	got := Truncate(batch)
	for i := range want {
		if !equalMasks(got[i], want[i]) {
			t.Errorf("clip %d: %v, want %v", i, got[i], want[i])
		}
	}
	if len(batch[0][0].Target) != 3 || len(batch[1][0].Context) != 4 {
		t.Error("Truncate changed its argument")
	}
	if got := Truncate(nil); len(got) != 0 {
		t.Errorf("Truncate(nil) = %v", got)
	}
}

func TestRefusedSettingsNameFieldAndValue(t *testing.T) {
	grid := Grid{T: 8, H: 8, W: 8}
	block := func(change func(*BlockSpec)) Spec {
		b := DefaultBlocks()
		change(&b[1])
		return Spec{Kind: KindMultiBlock, Blocks: b}
	}
	for _, c := range []struct {
		name        string
		spec        Spec
		grid        Grid
		field, says string
	}{
		{"no kind", Spec{}, grid, "kind", "must be one of"},
		{"unknown kind", Spec{Kind: "checker"}, grid, "kind", "checker"},
		{"empty grid", Spec{Kind: KindTube}, Grid{T: 8, H: 0, W: 8}, "grid.h", "0"},
		{"huge grid", Spec{Kind: KindTube}, Grid{T: 1 << 20, H: 1 << 20, W: 1 << 20}, "grid", "1048576"},
		{"negative grid", Spec{Kind: KindTube}, Grid{T: -1, H: -8, W: 8}, "grid.t", "-1"},
		{"ratio 1", Spec{Kind: KindTube, Ratio: 1}, grid, "ratio", "1"},
		{"ratio below 0", Spec{Kind: KindTube, Ratio: -0.5}, grid, "ratio", "-0.5"},
		{"ratio not a number", Spec{Kind: KindTube, Ratio: math.NaN()}, grid, "ratio", "NaN"},
		{"ratio leaves no context", Spec{Kind: KindTube, Ratio: 0.99}, grid, "ratio", "no context"},
		{"ratio leaves no target", Spec{Kind: KindTube, Ratio: 1e-300}, grid, "ratio", "no target"},
		{"context 0", Spec{Kind: KindCausal, ContextTubelets: []int{2, 0}}, grid, "context_tubelets[1]", "no context"},
		{"context whole clip", Spec{Kind: KindCausal, ContextTubelets: []int{8}}, grid, "context_tubelets[0]", "no target"},
		{"causal one tubelet", Spec{Kind: KindCausal}, Grid{T: 1, H: 8, W: 8}, "grid.t", "1"},
		{"next tubelet one tubelet", Spec{Kind: KindNextTubelet}, Grid{T: 1, H: 8, W: 8}, "grid.t", "1"},
		{"too many groups", Spec{Kind: KindMultiBlock, Blocks: make([]BlockSpec, 17)}, grid, "blocks", "17"},
		{"no blocks", block(func(b *BlockSpec) { b.NumBlocks = 0 }), grid, "blocks[1].num_blocks", "0"},
		{"many blocks", block(func(b *BlockSpec) { b.NumBlocks = 1 << 40 }), grid, "blocks[1].num_blocks", "1099511627776"},
		{"crowded blocks", block(func(b *BlockSpec) { b.NumBlocks = 256 }), grid, "blocks[1].num_blocks", "no context"},
		{"scale above 1", block(func(b *BlockSpec) { b.SpatialScale[1] = 1.5 }), grid, "blocks[1].spatial_scale", "1.5"},
		{"scale reversed", block(func(b *BlockSpec) { b.SpatialScale = [2]float64{0.5, 0.2} }), grid, "blocks[1].spatial_scale", "[0.5 0.2]"},
		{"scale too small", block(func(b *BlockSpec) { b.SpatialScale = [2]float64{0.001, 0.5} }), grid, "blocks[1].spatial_scale", "no target"},
		{"scale whole grid", block(func(b *BlockSpec) { b.SpatialScale = [2]float64{0.5, 1} }), grid, "blocks[1].spatial_scale", "no context"},
		{"temporal scale", block(func(b *BlockSpec) { b.TemporalScale = [2]float64{0, 1} }), grid, "blocks[1].temporal_scale", "[0 1]"},
		{"aspect", block(func(b *BlockSpec) { b.AspectRatio = [2]float64{1, math.Inf(1)} }), grid, "blocks[1].aspect_ratio", "+Inf"},
		{"ratio of another kind", Spec{Kind: KindCausal, Ratio: 0.5}, grid, "ratio", "causal"},
		{"blocks of another kind", Spec{Kind: KindTube, Blocks: DefaultBlocks()}, grid, "blocks", "tube"},
		{"context of another kind", Spec{Kind: KindTube, ContextTubelets: []int{1}}, grid, "context_tubelets", "tube"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(c.spec, c.grid)
			var field *FieldError
			if !errors.As(err, &field) {
				t.Fatalf("error %v, want a FieldError", err)
			}
			if field.Field != c.field || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q, want field %s and %q", err, c.field, c.says)
			}
		})
	}
}

// A setting in which most placements hide everything gives masks all the same.
func TestCrowdedBlocksLeaveContext(t *testing.T) {
	g := Grid{T: 2, H: 4, W: 4}
	crowded := BlockSpec{NumBlocks: 5, SpatialScale: [2]float64{0.7, 0.7}}
	gen, err := New(Spec{Kind: KindMultiBlock, Blocks: []BlockSpec{crowded}}, g)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(100) {
		masks, err := gen.Masks(seed)
		if err != nil {
			t.Fatal(err)
		}
		checkMask(t, g, masks[0])
	}
}

// A size that nearly always hides everything may be drawn of a setting whose other sizes do not: no clip of a run may end
// it. These are settings of the presets' grids that did.
func TestNoClipIsWithoutContext(t *testing.T) {
	for _, c := range []struct {
		side, blocks int
		scale        float64
	}{{4, 8, 0.7}, {4, 10, 0.7}, {7, 10, 0.8}, {8, 10, 0.8}, {8, 16, 0.7}} {
		g := Grid{T: 8, H: c.side, W: c.side}
		gen, err := New(Spec{Kind: KindMultiBlock, Blocks: []BlockSpec{{NumBlocks: c.blocks, SpatialScale: [2]float64{c.scale, c.scale}}}}, g)
		if err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(1500) {
			masks, err := gen.Masks(seed)
			if err != nil {
				t.Fatalf("%d blocks of %g on %d×%d: %v", c.blocks, c.scale, c.side, c.side, err)
			}
			checkMask(t, g, masks[0])
		}
	}
}

func TestDefaultContexts(t *testing.T) {
	for tubelets, want := range map[int][]int{1: nil, 2: {1}, 3: {1, 2}, 4: {1, 2, 3}, 8: {2, 4, 6}, 10: {2, 5, 7}} {
		if got := DefaultContexts(tubelets); !slices.Equal(got, want) {
			t.Errorf("of %d tubelets: %v, want %v", tubelets, got, want)
		}
	}
	g, err := New(Spec{Kind: KindCausal}, Grid{T: 8, H: 2, W: 2})
	if err != nil {
		t.Fatal(err)
	}
	masks, err := g.Masks(0)
	if err != nil || len(masks) != 3 || len(masks[0].Context) != 2*4 || len(masks[2].Context) != 6*4 {
		t.Errorf("a causal setting without contexts gives %d groups (%v), want 3, of 2, 4 and 6 tubelets", len(masks), err)
	}
}
