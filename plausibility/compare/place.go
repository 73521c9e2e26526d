package compare

import "fmt"

// Place is a moment of a video and a point of its scaled frames.
type Place struct {
	Frame  int     `json:"frame"`     // after sampling, from 0
	Second float64 `json:"second"`    // of that frame
	Row    float64 `json:"row_px"`    // from the top, 0 to File.Size
	Column float64 `json:"column_px"` // from the left
}

// Grid is how a model divides a video into tokens.
type Grid struct {
	Tubelet int `json:"tubelet"`  // frames of a token
	Patch   int `json:"patch_px"` // height and width of a token
}

// MapsFile names the file of surprise per token that lies beside a score file.
type MapsFile struct {
	Name   string `json:"name"` // in the folder of the score file
	SHA256 string `json:"sha256"`
	Videos int    `json:"videos"` // that it covers: the first of File.Videos; the others did not fit
}

func (p *Place) validate(size int) error {
	if p == nil {
		return nil
	}
	side := float64(size)
	if p.Frame < 0 || !finite(p.Second) || !(p.Row >= 0 && p.Row <= side && p.Column >= 0 && p.Column <= side) {
		return fmt.Errorf("frame %d, second %g, row %g, column %g: want a point of the video's %d×%d frames", p.Frame, p.Second, p.Row, p.Column, size, size)
	}
	return nil
}

// validatePlaces checks what localisation relies on.
func (f *File) validatePlaces() error {
	if g := f.Grid; g != nil && (g.Tubelet < 1 || g.Tubelet > f.Spec.Window || g.Patch < 1 || g.Patch > f.Size) {
		return fmt.Errorf("grid: tubelets of %d frames and %d pixels, want at least 1, at most the window of %d and the size of %d", g.Tubelet, g.Patch, f.Spec.Window, f.Size)
	}
	if m := f.Maps; m != nil && (m.Videos < 0 || m.Videos > len(f.Videos)) {
		return fmt.Errorf("maps.videos: %d, want 0 to %d", m.Videos, len(f.Videos))
	}
	for i := range f.Videos {
		if err := f.Videos[i].Divergence.validate(f.Size); err != nil {
			return fmt.Errorf("videos[%d] (%s): divergence: %w", i, f.Videos[i].Path, err)
		}
		for _, s := range f.Sets {
			if i < len(s.Scores) {
				if err := s.Scores[i].PeakAt.validate(f.Size); err != nil {
					return fmt.Errorf("video %s: %s: peak_at: %w", f.Videos[i].Path, s.Name, err)
				}
			}
		}
	}
	return nil
}
