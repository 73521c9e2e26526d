package compare

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/surmise-ml/surmise/internal/bounded"
	"github.com/surmise-ml/surmise/internal/durable"
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
	maxWindows  = 1_000_000 // of one video
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
	Videos    []Video   `json:"videos"`
	Skipped   []Skipped `json:"skipped"`
	Sets      []Set     `json:"sets"` // the model first; then its untrained twin, if it was scored
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
	Label    int    `json:"label"` // 1 possible, 0 impossible
	Group    string `json:"group"` // videos of a group share everything but the event
	Property string `json:"property"`
	Pair     string `json:"pair,omitempty"`  // the matched pair inside the group; empty: every possible video meets every impossible one
	SHA256   string `json:"sha256"`          // of the file's bytes
	Frames   int    `json:"frames"`          // after sampling
	First    int    `json:"first,omitempty"` // frame of the file that the sampling begins with

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
	SHA256 string          `json:"sha256,omitempty"` // of the weights file; empty for a twin that was never saved
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

// Validate checks everything later arithmetic relies on: matrices of the right
// shape, finite numbers that are not negative, labels of 0 or 1, groups with both.
// Errors name the field, or the video and window.
func (f *File) Validate() error {
	if f.Version < oldestVersion || f.Version > Version {
		return versionError(f.Version)
	}
	if err := f.Spec.Validate(); err != nil {
		return fmt.Errorf("spec.%w", err)
	}
	if len(f.Videos) == 0 {
		return errors.New("videos: none")
	}
	if len(f.Videos) > maxVideos {
		return fmt.Errorf("videos: %d of them, at most %d", len(f.Videos), maxVideos)
	}
	switch f.Precision {
	case "", "fp32", "bf16", "tf32":
	default:
		return fmt.Errorf("precision: %q, want fp32, bf16 or tf32", f.Precision)
	}
	groups := map[string]*groupCheck{}
	for i := range f.Videos {
		v := &f.Videos[i]
		if err := v.validate(); err != nil {
			return fmt.Errorf("videos[%d] (%s): %w", i, v.Path, err)
		}
		g := groups[v.Group]
		if g == nil {
			g = &groupCheck{property: v.Property}
			groups[v.Group] = g
		}
		if err := g.add(v.Label, v.Property); err != nil {
			return fmt.Errorf("videos[%d] (%s): group %q: %w", i, v.Path, v.Group, err)
		}
	}
	for i := range f.Videos {
		if err := groups[f.Videos[i].Group].complete(); err != nil {
			return fmt.Errorf("group %q: %w", f.Videos[i].Group, err)
		}
	}
	if len(f.Sets) == 0 {
		return errors.New("sets: none")
	}
	seen := map[string]bool{}
	for i := range f.Sets {
		s := &f.Sets[i]
		if s.Name != ModelSet && s.Name != TwinSet && s.Name != CopySet {
			return fmt.Errorf("sets[%d].name: %q, want %q, %q or %q", i, s.Name, ModelSet, TwinSet, CopySet)
		}
		if seen[s.Name] {
			return fmt.Errorf("sets[%d].name: %q appears twice", i, s.Name)
		}
		seen[s.Name] = true
		if err := f.validateSet(s); err != nil {
			return fmt.Errorf("sets[%d] (%s): %w", i, s.Name, err)
		}
	}
	if !seen[ModelSet] {
		return fmt.Errorf("sets: no set named %q", ModelSet)
	}
	return f.validatePlaces()
}

type groupCheck struct {
	property string
	labels   [2]int
}

func (g *groupCheck) add(label int, property string) error {
	if property != g.property {
		return fmt.Errorf("property %q, but the group's first video has %q", property, g.property)
	}
	g.labels[label]++
	return nil
}

func (g *groupCheck) complete() error {
	switch {
	case g.labels[0]+g.labels[1] > MaxGroup:
		return fmt.Errorf("has %d videos, at most %d", g.labels[0]+g.labels[1], MaxGroup)
	case g.labels[0]+g.labels[1] < 2:
		return errors.New("has one video, want at least two")
	case g.labels[0] == 0:
		return errors.New("has no impossible video (label 0)")
	case g.labels[1] == 0:
		return errors.New("has no possible video (label 1)")
	}
	return nil
}

func (v *Video) validate() error {
	if v.Label != 0 && v.Label != 1 {
		return fmt.Errorf("label: %d, want 1 (possible) or 0 (impossible)", v.Label)
	}
	if v.Group == "" {
		return errors.New("group: empty")
	}
	if v.Frames < 0 {
		return fmt.Errorf("frames: %d, want 0 or more", v.Frames)
	}
	if v.First < 0 {
		return fmt.Errorf("first: frame %d, want 0 or more", v.First)
	}
	if len(v.WindowStart) == 0 || len(v.WindowStart) > maxWindows {
		return fmt.Errorf("window_start_s: %d windows, want 1 to %d", len(v.WindowStart), maxWindows)
	}
	for _, times := range [][]float64{v.WindowStart, v.TubeletStart} {
		for i, t := range times {
			if !finite(t) || i > 0 && t < times[i-1] {
				return fmt.Errorf("times: %g s at position %d, want finite and ascending seconds", t, i)
			}
		}
	}
	return nil
}

func (f *File) validateSet(s *Set) error {
	if len(s.Scores) != len(f.Videos) {
		return fmt.Errorf("scores: %d of them for %d videos", len(s.Scores), len(f.Videos))
	}
	for i := range s.Scores {
		v, sc := &f.Videos[i], &s.Scores[i]
		for _, m := range []struct {
			name   string
			values [][]float64
		}{{"surprise", sc.Surprise}, {"peak", sc.Peak}} {
			if err := f.validateMatrix(m.values, len(v.WindowStart)); err != nil {
				return fmt.Errorf("video %s: %s%w", v.Path, m.name, err)
			}
		}
		if len(sc.Curve) != len(v.TubeletStart) {
			return fmt.Errorf("video %s: curve: %d values for %d times", v.Path, len(sc.Curve), len(v.TubeletStart))
		}
		if sc.Contrast != nil && !(finite(sc.Contrast.Pair) && finite(sc.Contrast.Group)) {
			return fmt.Errorf("video %s: contrast: %g and %g, want finite numbers", v.Path, sc.Contrast.Pair, sc.Contrast.Group)
		}
		for t, x := range sc.Curve {
			if !finite(x) || x < 0 {
				return fmt.Errorf("video %s: curve: %g at %g s, want finite and not negative", v.Path, x, v.TubeletStart[t])
			}
		}
	}
	return nil
}

func (f *File) validateMatrix(m [][]float64, windows int) error {
	if len(m) != f.Spec.NumContexts() {
		return fmt.Errorf(": %d contexts, the spec has %d", len(m), f.Spec.NumContexts())
	}
	for c := range m {
		want := windows
		if f.Spec.Beginning {
			if f.Grid == nil || f.Grid.Tubelet < 1 {
				return errors.New(": with spec.beginning, but without the tubelet in grid")
			}
			shorter := func(c int) int { return (f.Spec.Contexts[c] - 1) / f.Grid.Tubelet } // how many ShorterContexts there are
			want -= shorter(len(f.Spec.Contexts)-1) - shorter(c)
		}
		if len(m[c]) != want || want < 1 {
			return fmt.Errorf("[%d]: %d windows, the video has %d", c, len(m[c]), want)
		}
		for w, x := range m[c] {
			if !finite(x) || x < 0 {
				return fmt.Errorf("[%d][%d]: %g, want finite and not negative", c, w, x)
			}
		}
	}
	return nil
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// Encode writes the file as JSON after checking it: NaN and infinities are
// refused with the video they belong to.
func (f *File) Encode(w io.Writer) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("score file: %w", err)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	if err := enc.Encode(f); err != nil {
		return fmt.Errorf("writing score file: %w", err)
	}
	return nil
}

// ErrVersion is what reading a score file of another version wraps.
var ErrVersion = errors.New("score file of another version")

func versionError(got int) error {
	return fmt.Errorf("%w: it is version %d, this program reads version %d to %d; score the videos again", ErrVersion, got, oldestVersion, Version)
}

// Decode reads a score file strictly: of a version it knows, no unknown fields, no
// trailing data, at most 512 MiB, everything Validate checks.
func Decode(r io.Reader) (*File, error) {
	data, err := bounded.Read(r, maxFileBytes)
	if err != nil {
		return nil, fmt.Errorf("reading score file: %w", err)
	}
	// The version comes first: another version's fields are expected to differ.
	var head struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("score file: not JSON: %w", err)
	}
	if head.Version == nil {
		return nil, errors.New("score file: no version field; is this a score file?")
	}
	if *head.Version < oldestVersion || *head.Version > Version {
		return nil, versionError(*head.Version)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	f := new(File)
	if err := dec.Decode(f); err != nil {
		return nil, fmt.Errorf("score file: %w", err)
	}
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("score file: %w", err)
	}
	return f, nil
}

// Load reads the score file at path; see Decode.
func Load(path string) (*File, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening score file: %w", err)
	}
	defer r.Close()
	f, err := Decode(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Save writes the score file to path: whole, or not at all.
func (f *File) Save(path string) error {
	if err := durable.WriteFile(path, 0o644, f.Encode); err != nil {
		return fmt.Errorf("score file: %w", err)
	}
	return nil
}
