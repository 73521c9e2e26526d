package masking

// tube hides the same random patch positions in every tubelet.
type tube struct {
	grid Grid
	keep int // patch positions that stay visible, of H·W
}

func newTube(ratio float64, g Grid) (Generator, error) {
	if ratio == 0 {
		ratio = defaultRatio
	}
	if !(ratio > 0 && ratio < 1) {
		return nil, invalid("ratio", ratio, "must lie between 0 and 1, both excluded")
	}
	keep := int(float64(g.H*g.W) * (1 - ratio))
	if keep == 0 {
		return nil, invalid("ratio", ratio, "hides all %d×%d patches, which leaves no context", g.H, g.W)
	}
	if keep == g.H*g.W {
		return nil, invalid("ratio", ratio, "hides none of %d×%d patches, which leaves no target", g.H, g.W)
	}
	return tube{grid: g, keep: keep}, nil
}

func (tube) Groups() int { return 1 }

func (m tube) Masks(seed uint64) ([]Mask, error) {
	patches := m.grid.H * m.grid.W
	hidden := make([]bool, m.grid.Tokens()) // [T, H·W]
	for _, p := range newRand(seed, 0).Perm(patches)[m.keep:] {
		for t := range m.grid.T {
			hidden[t*patches+p] = true
		}
	}
	return []Mask{split(hidden, (patches-m.keep)*m.grid.T)}, nil
}
