package masking

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// multiBlock draws masks as V-JEPA's multi-block collator does
// (facebookresearch/jepa, src/masks/multiblock3d.py): draw one block size,
// place NumBlocks blocks of it at random, predict their union from the rest.
type multiBlock struct {
	grid   Grid
	blocks []BlockSpec // one per group, checked
}

// size is that of a block: tubelets, rows, columns.
type size struct{ t, h, w int }

// A placement that hides everything is drawn again. The published loop has no
// bound; the worst of its published settings, two blocks of scale 0.7 on a 4×4
// grid, repeats a draw 0.7 times on average. A setting of which fewer than
// minUseful of trialPlacements leave something visible is refused at once: it
// would draw for long, and in the end in vain.
const (
	trialPlacements = 16
	minUseful       = 2
	// A size that leaves next to nothing may come although others do not: after so many placements in vain another one is
	// drawn. No published setting comes to that.
	resizeAfter   = 100
	maxPlacements = 10000
)

func newMultiBlock(blocks []BlockSpec, g Grid) (Generator, error) {
	if len(blocks) == 0 {
		blocks = DefaultBlocks()
	}
	if len(blocks) > maxGroups {
		return nil, invalid("blocks", len(blocks), "must hold at most %d mask groups", maxGroups)
	}
	m := &multiBlock{grid: g, blocks: make([]BlockSpec, len(blocks))}
	for i, b := range blocks {
		checked, err := b.withDefaults(i, g)
		if err != nil {
			return nil, err
		}
		m.blocks[i] = checked
	}
	for i := range m.blocks {
		if useful := m.useful(i); useful < minUseful {
			return nil, invalid(fmt.Sprintf("blocks[%d].num_blocks", i), m.blocks[i].NumBlocks,
				"in %d of %d trials the blocks hid the whole %d×%d×%d grid (tubelets×rows×columns), which leaves no context: take fewer or smaller ones",
				trialPlacements-useful, trialPlacements, g.T, g.H, g.W)
		}
	}
	return m, nil
}

// useful is how many of trialPlacements of a group leave something visible,
// counted up to minUseful.
func (m *multiBlock) useful(group int) (n int) {
	rng := newRand(0, 0)
	b := m.blocks[group]
	hidden := make([]bool, m.grid.Tokens()) // [T·H·W]
	for try := 0; try < trialPlacements && n < minUseful; try++ {
		s := b.size(m.grid, rng.Float64(), rng.Float64(), rng.Float64())
		clear(hidden)
		count := 0
		for block := 0; block < b.NumBlocks && count < len(hidden); block++ {
			count += m.hideBlock(rng, hidden, s)
		}
		if count < len(hidden) {
			n++
		}
	}
	return n
}

func (m *multiBlock) Groups() int { return len(m.blocks) }

func (m *multiBlock) Masks(seed uint64) ([]Mask, error) {
	rng := newRand(seed, 0)
	return m.place(rng, m.sizes(rng))
}

// sizes draws one block size per group.
func (m *multiBlock) sizes(rng *rand.Rand) []size {
	sizes := make([]size, len(m.blocks))
	for i, b := range m.blocks {
		sizes[i] = b.size(m.grid, rng.Float64(), rng.Float64(), rng.Float64())
	}
	return sizes
}

// size turns three uniform numbers in [0,1) into a block size, in the order and
// with the rounding of the published code (Python rounds halves to even).
func (b BlockSpec) size(g Grid, uTime, uSpace, uAspect float64) size {
	t := max(1, int(float64(g.T)*within(b.TemporalScale, uTime)))
	patches := float64(int(float64(g.H*g.W) * within(b.SpatialScale, uSpace)))
	aspect := within(b.AspectRatio, uAspect)
	h := int(math.RoundToEven(math.Sqrt(patches * aspect)))
	w := int(math.RoundToEven(math.Sqrt(patches / aspect)))
	return size{t: t, h: min(max(h, 1), g.H), w: min(max(w, 1), g.W)}
}

func within(r [2]float64, u float64) float64 { return r[0] + u*(r[1]-r[0]) }

// place draws where the blocks of each group lie; sizes has one per group.
func (m *multiBlock) place(rng *rand.Rand, sizes []size) ([]Mask, error) {
	masks := make([]Mask, len(m.blocks))
	hidden := make([]bool, m.grid.Tokens()) // [T·H·W]
	for i, b := range m.blocks {
		count := len(hidden)
		for try := 0; count == len(hidden); try++ {
			if try == maxPlacements {
				return nil, invalid(fmt.Sprintf("blocks[%d].num_blocks", i), b.NumBlocks, "%d times in a row the blocks hid the whole grid", maxPlacements)
			}
			s := sizes[i]
			if try >= resizeAfter {
				s = b.size(m.grid, rng.Float64(), rng.Float64(), rng.Float64())
			}
			clear(hidden)
			count = 0
			for range b.NumBlocks {
				count += m.hideBlock(rng, hidden, s)
			}
		}
		masks[i] = split(hidden, count)
	}
	return masks, nil
}

// hideBlock hides one block at a random place and returns how many tokens it
// newly hid.
func (m *multiBlock) hideBlock(rng *rand.Rand, hidden []bool, s size) int {
	g := m.grid
	top := rng.IntN(g.H - s.h + 1)
	left := rng.IntN(g.W - s.w + 1)
	start := rng.IntN(g.T - s.t + 1)
	count := 0
	for t := start; t < start+s.t; t++ {
		for h := top; h < top+s.h; h++ {
			row := hidden[(t*g.H+h)*g.W:][left : left+s.w]
			for w := range row {
				if !row[w] {
					row[w] = true
					count++
				}
			}
		}
	}
	return count
}
