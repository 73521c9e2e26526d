// Package plausibility measures how much a video surprises a model: the error of
// predicting, in representation space, what the video goes on to show. Where
// something implausible happens the error is high.
//
//	pairs.go     pairs.csv -> the videos to score
//	unlabelled.go  names of videos, folders, indexes -> the same, without labels
//	datasets.go  the folder of a benchmark -> the same; intphys.go, intphys2.go, grasp.go, inflevel.go
//	windows.go   frames -> sliding windows; token errors -> surprise
//	network.go   a model at work on windows; tubelets.go: what overlapping ones have in common
//	score.go     videos + model (+ its untrained twin) -> a score file
//	places.go    token errors -> curves, maps, where surprise peaks and pairs part
//	notes.go     what results should be read with: events that no window sees, groups that differ in more
//	controls.go  possible videos against altered copies of themselves
//	copylast.go  the predictor that any other must beat
//	rank.go      candidate futures of a clip -> their order by energy
//
// What can be concluded from score files is package compare, which needs neither
// videos nor models; maps are package heat, pages and pictures package report.
//
// Letters: N windows in a batch, T frames of a window, S pixels (height and width).
// The procedure is the published one (Garrido et al., arXiv:2502.11831): a window
// slides over the video; for each context length the model sees the window's first
// frames and predicts the representation of the rest.
package plausibility

import (
	"context"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/video"
)

// Spec says how windows are taken and reduced; see compare.Spec.
type Spec = compare.Spec

// Video is one row of a pairs file, one video of a dataset, or one without a label.
type Video struct {
	Path     string // of the file, or of the folder of its frames; or a URI
	Name     string // as the pairs file or dataset names it, for the record; empty: Path
	Label    int    // 1 possible, 0 impossible; compare.NoLabel
	Group    string // videos of a group share everything but the event; empty without a label
	Property string // what the event violates

	// Pair names the pair inside the group, where the dataset says it; where a video of the
	// group has none, pairs are found by how long videos look alike.
	Pair  string
	First int // number of the frame of the file that scoring begins with
	// EqualLength leaves out frames at the start, after First, until the videos of the pair
	// are as long as its shortest.
	EqualLength bool
}

func (v *Video) name() string {
	if v.Name == "" {
		return v.Path
	}
	return v.Name
}

// Frames are the frames of a video. Two of them that are equal by == are the same video.
type Frames interface {
	// Normalize writes count frames from frame from on, normalised, as [3,count,S,S].
	Normalize(dst []float32, from, count int)
}

// Window is where a window lies. Its length is the Spec's.
type Window struct {
	Of   Frames
	From int // first frame
	// Contexts are the context lengths it is scored at, in place of the spec's; nil: the spec's.
	Contexts []int
}

// Predictor is what scoring needs of a model.
type Predictor interface {
	// Surprise returns the prediction errors of windows, in their order. Windows of one video that
	// overlap are best given in one call, or one call after the other.
	Surprise(ctx context.Context, windows []Window) ([]WindowErrors, error)
}

// clipFrames are the frames of a decoded video.
type clipFrames struct{ *video.Clip }

func (f clipFrames) Normalize(dst []float32, from, count int) {
	video.Normalize(dst, f.Clip, from, count)
}

// WindowErrors holds the errors of one window, one element per context length of
// the spec in its order; exactly one, of Context 0, for next-tubelet models.
type WindowErrors []ContextErrors

// ContextErrors holds the errors of the predicted tokens of one window.
type ContextErrors struct {
	Context int       // frames the model saw
	Tokens  []int32   // of the token grid, index (t*H + h)*W + w, ascending
	Errors  []float32 // mean |prediction - target| over features, per token
}
