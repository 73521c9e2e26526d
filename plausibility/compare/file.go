package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
)

// Version is the score file version this package writes. It also reads oldestVersion,
// whose files lack what came later: protocol, crop, dataset, frames left out.
const (
	Version       = 2
	oldestVersion = 1
)

// Names of the sets of a score file.
const (
	ModelSet = "model"
	TwinSet  = "untrained twin"
	CopySet  = "copy last frame" // the model's targets, predicted by those of the last tubelet seen
)

// Bounds on what a score file from outside may hold.
const (
	maxFileBytes = 512 << 20
	maxVideos    = 1_000_000
	// MaxGroup bounds the videos of a group, each possible one of which may be paired with each impossible one.
	MaxGroup    = 2000
	maxPairs    = 10_000_000 // of all groups
	maxWindows  = 1_000_000  // of one video
	maxContexts = 1_000
	maxWindow   = 1 << 16 // frames
)

// File is a score file: the surprise of every video to a model and, by default,
// to its untrained twin, with all that is needed to tell whether two files may
// be compared.
type File struct {
	Version   int       `json:"version"`
	Spec      Spec      `json:"spec"`
	Size      int       `json:"size_px"`             // frames were scaled to Size × Size pixels
	Decoder   string    `json:"decoder"`             // name and version of what decoded the videos
	Data      string    `json:"data_sha256"`         // digest of the videos' contents, labels and groups (see Digest)
	Precision string    `json:"precision,omitempty"` // number format that the models computed in, fp32, bf16 or tf32; "" means fp32
	Folder    string    `json:"folder,omitempty"`    // of the pairs file or dataset, where it was scored: what paths are relative to
	Dataset   *Dataset  `json:"dataset,omitempty"`   // absent for a pairs file
	Grid      *Grid     `json:"grid,omitempty"`      // of the model's tokens
	Maps      *MapsFile `json:"maps,omitempty"`      // surprise per token, if it was kept
	Notes     []string  `json:"notes,omitempty"`     // what results should be read with: found while scoring, one line each
	Videos    []Video   `json:"videos"`
	Skipped   []Skipped `json:"skipped"`
	Sets      []Set     `json:"sets"` // the model first; then its untrained twin, if it was scored

	// UnseenPairs is how many pairs part in frames that no window covers: nothing told their videos apart.
	UnseenPairs int `json:"unseen_pairs,omitempty"`
}

// Dataset is where the videos of a file came from.
type Dataset struct {
	Name  string   `json:"name"`            // such as "intphys"
	Notes []string `json:"notes,omitempty"` // what its reader left out or found missing; tables repeat them as warnings
}

// Spec says how windows are taken from a video and reduced to numbers. Frames
// are counted after sampling (FrameStep or FPS).
type Spec struct {
	Protocol        string `json:"protocol,omitempty"`         // that the other fields are of (see Protocol); empty: settings of one's own
	ProtocolVersion int    `json:"protocol_version,omitempty"` // 0 without a protocol

	Window    int     `json:"window"`               // frames of one window
	Stride    int     `json:"stride"`               // frames between the starts of windows; 0 means 2, as published
	FrameStep int     `json:"frame_step,omitempty"` // every FrameStep-th frame of the file; 0 means 1
	FPS       float64 `json:"fps,omitempty"`        // or this many frames a second; not both
	Contexts  []int   `json:"contexts,omitempty"`   // frames the model sees of a window, ascending; empty for next-tubelet models
	TopTokens int     `json:"top_tokens,omitempty"` // worst tokens averaged per tubelet; 0 means all
	// Beginning scores the first window after every shorter context of whole tubelets too, so that what happens before the
	// first context ends is seen. Those results come before those of windows, and a longer context has more of them.
	Beginning bool   `json:"beginning,omitempty"`
	MaxFrames int    `json:"max_frames,omitempty"` // frames of a video that are used, from its start; 0 means all
	Crop      string `json:"crop,omitempty"`       // what of a frame is scaled to the model's size: "" the largest centred square, or CropWhole
}

// CropWhole brings the whole frame to a square, whatever its shape.
const CropWhole = "whole"

// NextTubeletTopTokens is the number of worst tokens per tubelet that next-tubelet
// models are scored by unless a spec says otherwise. An event is local: over all
// tokens its error drowns in the background's.
const NextTubeletTopTokens = 4

// DefaultSpec is how a model of the given clip length and tubelet, in frames, is
// scored unless asked otherwise: every second frame starts a window; masked models
// see one to five eighths of it, which is what was published for windows of 16
// and 32 frames (Garrido et al., arXiv:2502.11831); next-tubelet models see all
// that went before, and are scored by each tubelet's worst tokens.
func DefaultSpec(window, tubelet int, nextTubelet bool) Spec {
	s := Spec{Window: window}.WithDefaults()
	if nextTubelet {
		s.TopTokens = NextTubeletTopTokens
		return s
	}
	step := max(tubelet, window/8/tubelet*tubelet)
	for c := step; c <= 5*step && c < window; c += step {
		s.Contexts = append(s.Contexts, c)
	}
	return s
}

// WithDefaults fills in what is zero and has a default.
func (s Spec) WithDefaults() Spec {
	if s.Stride == 0 {
		s.Stride = 2
	}
	if s.FrameStep == 0 && s.FPS == 0 {
		s.FrameStep = 1
	}
	return s
}

// Validate checks a spec after defaults; errors name the field and its value.
func (s Spec) Validate() error {
	switch {
	case s.Window < 1 || s.Window > maxWindow:
		return fmt.Errorf("window: %d frames, want 1 to %d", s.Window, maxWindow)
	case s.Stride < 1:
		return fmt.Errorf("stride: %d frames, want at least 1", s.Stride)
	case s.FrameStep != 0 && s.FPS != 0:
		return fmt.Errorf("frame_step: %d and fps: %g are both set, want one of them", s.FrameStep, s.FPS)
	case s.FrameStep < 0:
		return fmt.Errorf("frame_step: %d, want at least 1", s.FrameStep)
	case s.FPS < 0 || math.IsNaN(s.FPS) || math.IsInf(s.FPS, 0):
		return fmt.Errorf("fps: %g, want a positive number", s.FPS)
	case s.FrameStep == 0 && s.FPS == 0:
		return errors.New("frame_step: neither it nor fps is set")
	case s.MaxFrames < 0 || s.MaxFrames > 0 && s.MaxFrames < s.Window:
		return fmt.Errorf("max_frames: %d, want 0 (all) or at least the window of %d", s.MaxFrames, s.Window)
	case s.Crop != "" && s.Crop != CropWhole:
		return fmt.Errorf("crop: %q, want none or %q", s.Crop, CropWhole)
	case s.TopTokens < 0:
		return fmt.Errorf("top_tokens: %d, want 0 (all tokens) or more", s.TopTokens)
	case s.Beginning && len(s.Contexts) == 0:
		return errors.New("beginning: true, want false without contexts")
	case len(s.Contexts) > maxContexts:
		return fmt.Errorf("contexts: %d of them, at most %d", len(s.Contexts), maxContexts)
	}
	for i, c := range s.Contexts {
		if c < 1 || c >= s.Window {
			return fmt.Errorf("contexts[%d]: %d frames, want 1 to window-1 = %d", i, c, s.Window-1)
		}
		if i > 0 && c <= s.Contexts[i-1] {
			return fmt.Errorf("contexts[%d]: %d after %d, want ascending", i, c, s.Contexts[i-1])
		}
	}
	return s.keepsProtocol()
}

// NumContexts is C, the rows of every score matrix: 1 for next-tubelet models.
func (s Spec) NumContexts() int { return max(1, len(s.Contexts)) }

// ShorterContexts are the contexts that Beginning adds to the first window before row c's own: every number of whole
// tubelets below it.
func (s Spec) ShorterContexts(c, tubelet int) []int {
	var out []int
	for frames := tubelet; s.Beginning && frames < s.Contexts[c]; frames += tubelet {
		out = append(out, frames)
	}
	return out
}

// Video is one scored video.
type Video struct {
	Path     string `json:"path"`  // as the pairs file names it (see File.Location)
	Label    int    `json:"label"` // 1 possible, 0 impossible, or NoLabel
	Group    string `json:"group"` // videos of a group share everything but the event; empty without a label
	Property string `json:"property"`
	Pair     string `json:"pair,omitempty"`  // the matched pair inside the group; empty: every possible video meets every impossible one
	SHA256   string `json:"sha256"`          // of the file's bytes
	Frames   int    `json:"frames"`          // after sampling
	First    int    `json:"first,omitempty"` // frame of the file that the sampling begins with

	// Of the file; absent where it is not known.
	FPS    float64 `json:"fps,omitempty"` // mean rate of the frames that were read, from their time stamps
	Width  int     `json:"width_px,omitempty"`
	Height int     `json:"height_px,omitempty"`
	Codec  string  `json:"codec,omitempty"` // as the container names it

	WindowStart  []float64 `json:"window_start_s"`  // [W] seconds; with Spec.Beginning W is that of the longest context
	TubeletStart []float64 `json:"tubelet_start_s"` // time axis of Scores.Curve, seconds, ascending

	// Divergence is the first frame that differs visibly from the video it is paired with, and the middle of what
	// differs there; absent without a pair, or if they never part.
	Divergence *Place `json:"divergence,omitempty"`
}

// Skipped is a video that was not scored, or a video of a group dropped because
// of another one.
type Skipped struct {
	Path   string `json:"path"`
	Group  string `json:"group"`
	Reason string `json:"reason"`
}

// Set is the scores one model gave to all videos.
type Set struct {
	Name   string   `json:"name"` // ModelSet, TwinSet or CopySet
	Model  Model    `json:"model"`
	Scores []Scores `json:"scores"` // [N], in the order of File.Videos
}

// Model says which weights made a set of scores.
type Model struct {
	Name   string          `json:"name"`             // what to call it in tables
	SHA256 string          `json:"sha256,omitempty"` // of the weights file, of a twin that which training began with; empty for fresh weights
	Step   int             `json:"step"`             // training steps; 0 for a twin
	Seed   uint64          `json:"seed"`             // of its initial weights
	Config json.RawMessage `json:"config,omitempty"` // the model's configuration as its checkpoint holds it
}

// Scores is the surprise of one video.
type Scores struct {
	Surprise [][]float64 `json:"surprise"` // [C,W], with Spec.Beginning fewer in rows of shorter contexts; mean over predicted tokens (over the worst of each tubelet with TopTokens)
	Peak     [][]float64 `json:"peak"`     // [C,W] largest tubelet of the window
	Curve    []float64   `json:"curve"`    // surprise over time, one value per Video.TubeletStart, mean over windows and contexts

	Contrast *Contrast `json:"contrast,omitempty"` // absent where the videos of a group cannot be laid over one another

	PeakAt *Place `json:"peak_at,omitempty"` // first frame of the curve's largest tubelet, and the middle of its worst token
}

// Contrast is by how much a video surprises more than others do in the same places, in the tubelet in which they part: the
// mean over the ContrastTokens tokens in which it does so most. What all of them show costs all of them alike, and is gone.
// The numbers may be negative. Exchange possible and impossible, and every difference changes its sign. Of videos that part
// nowhere visibly it is the tubelet in which they differ most.
type Contrast struct {
	Pair  float64 `json:"pair"`  // to the video that it is paired with
	Group float64 `json:"group"` // the group's videos of its label, on average, to those of the other: the same for all of a label
}

// ContrastTokens is how many tokens of a tubelet a contrast is the mean of. Events are local; 1, 4 and 16 do alike
// (docs/experiments.md).
const ContrastTokens = 4

// Location is where a video of the file was when it was scored: a path or URI.
func (f *File) Location(v *Video) string {
	if filepath.IsAbs(v.Path) || strings.Contains(v.Path, "://") {
		return v.Path
	}
	return filepath.Join(f.Folder, v.Path)
}

// Set returns the named set.
func (f *File) Set(name string) (*Set, bool) {
	for i := range f.Sets {
		if f.Sets[i].Name == name {
			return &f.Sets[i], true
		}
	}
	return nil, false
}
