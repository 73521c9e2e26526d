package synth

// The difficulties, from plain to crowded.
const (
	easy   = "easy"
	middle = "middle"
	hard   = "hard"
)

// Difficulties returns the names of the difficulties, the easiest first.
func Difficulties() []string { return []string{easy, middle, hard} }

// level is what a difficulty means. Lengths are in frame widths.
type level struct {
	minRadius, maxRadius   float64  // of objects
	minObjects, maxObjects int      // in a clip; a world of permanence holds one less
	backgrounds            []string // kinds
	// Occluders in clips that need none: so many, and at least so many of them
	// moving.
	minOccluders, maxOccluders, minMoving int
	furniture                             float64 // probability of a platform, and of a ramp
	flicker                               float64 // brightness of all, up and down by this share
	noise                                 float64 // standard deviation of a pixel's colours, of 255
	shake                                 float64 // of the camera, up to this far in x and y
}

var levels = map[string]level{
	// One large object before one colour.
	easy: {
		minRadius: 0.12, maxRadius: 0.15, minObjects: 1, maxObjects: 1,
		backgrounds: []string{plain},
		furniture:   0.2,
	},
	// A few objects before gradients and textures, at times with something in
	// front.
	middle: {
		minRadius: 0.09, maxRadius: 0.12, minObjects: 1, maxObjects: 3,
		backgrounds:  []string{gradient, texture, checker, stripes},
		maxOccluders: 1,
		furniture:    0.3,
	},
	// Small objects among others, moving things in front, light that is not
	// steady, and a camera that is not either.
	hard: {
		minRadius: 0.06, maxRadius: 0.08, minObjects: 3, maxObjects: 5,
		backgrounds:  []string{gradient, texture, checker, stripes},
		minOccluders: 1, maxOccluders: 2, minMoving: 1,
		furniture: 0.3,
		flicker:   0.08, noise: 4, shake: maxShake,
	},
}

// maxShake is the most that a camera moves, in frame widths.
const maxShake = 0.02
