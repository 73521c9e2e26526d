package synth

import "math"

// Kinds of backgrounds.
const (
	plain    = "plain"    // one colour
	gradient = "gradient" // from one colour to another along a direction
	texture  = "texture"  // smooth noise between two colours
	checker  = "checker"  // squares of two colours
	stripes  = "stripes"  // stripes of two colours across a direction
)

// background is a picture that stays as it is for the whole clip.
type background struct {
	Kind  string   `json:"kind"`
	From  [3]uint8 `json:"from"`            // RGB; the only colour, a gradient's start, the darkest of a texture
	To    [3]uint8 `json:"to"`              // RGB; a gradient's end, the lightest of a texture, the other of two
	Angle float64  `json:"angle,omitempty"` // gradient, stripes: direction, radians
	Cells int      `json:"cells,omitempty"` // texture, checker: cells per side; stripes: stripes in a frame width
	// Shades [Cells, Cells], rows first, is where each cell of a texture lies
	// between From (0) and To (255); base64 in JSON.
	Shades []uint8 `json:"shades,omitempty"`
}

// background draws one of the level's kinds, darker than fixtures and lighter
// than dark occluders.
func (s *sampler) background() background {
	shade := 60 + s.rng.IntN(35)
	b := background{
		Kind: pick(s.rng, s.backgrounds),
		From: s.muted(shade - s.rng.IntN(15)),
		To:   s.muted(shade + 5 + s.rng.IntN(20)),
	}
	switch b.Kind {
	case plain:
		b.To = b.From
	case gradient:
		b.Angle = s.between(0, 2*math.Pi)
	case texture:
		b.Cells = 4 + s.rng.IntN(9)
		b.Shades = make([]uint8, b.Cells*b.Cells)
		for i := range b.Shades {
			b.Shades[i] = uint8(s.rng.IntN(256))
		}
	case checker:
		b.Cells = 4 + s.rng.IntN(7)
	case stripes:
		b.Angle, b.Cells = s.between(0, 2*math.Pi), 4+s.rng.IntN(9)
	}
	return b
}

// shade is where the colour at a place lies between From (0) and To (1);
// textures are drawn from their cells instead.
func (b background) shade(x, y float64) float64 {
	sin, cos := math.Sincos(b.Angle)
	along := (x-0.5)*cos + (y-0.5)*sin
	switch b.Kind {
	case gradient:
		return min(max(0.5+along/math.Sqrt2, 0), 1)
	case checker:
		n := float64(b.Cells)
		return odd(math.Floor(x*n) + math.Floor(y*n))
	case stripes:
		return odd(math.Floor(along * float64(b.Cells)))
	}
	return 0
}

func odd(n float64) float64 { return math.Abs(math.Mod(n, 2)) }
