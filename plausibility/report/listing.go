package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"strconv"

	"github.com/surmise-ml/surmise/internal/durable"
	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
)

// ListingPage is what a report shows of videos without labels. Only Title, Listing and File must be set.
type ListingPage struct {
	Title     string
	Made      string // as in Page
	Listing   *compare.Listing
	File      *compare.File // that Listing is of
	Reference *compare.File // that it was judged by; may be nil
	Shown     []Curve       // of the videos that surprise most, with frames at FrameSeconds
	Facts     []Fact        // further provenance
}

// rowsShown is how many videos a page lists; videos.csv has all.
const rowsShown = 200

// MostSurprising are the curves of the first n videos of a listing of f, with frames if there is a source of them. Heat is
// laid over these where maps, which may be nil, have it.
func MostSurprising(ctx context.Context, f *compare.File, l *compare.Listing, n int, frames FrameSource, maps MapSource) ([]Curve, error) {
	model, ok := f.Set(compare.ModelSet)
	if !ok {
		return nil, errors.New("choosing videos to show: no scores of the model")
	}
	var out []Curve
	for _, v := range l.Videos[:min(n, len(l.Videos))] {
		i := v.Video
		c := Curve{Path: v.Path, Seconds: f.Videos[i].TubeletStart, Surprise: model.Scores[i].Curve, Video: i}
		if frames != nil && len(c.Seconds) > 0 {
			seconds := spread(c.Seconds[0], c.Seconds[len(c.Seconds)-1])
			var err error
			if c.Frames, err = stills(ctx, frames, f.Location(&f.Videos[i]), seconds); err != nil {
				return nil, err
			}
			if maps != nil {
				if m, ok := maps.Of(compare.ModelSet, i); ok {
					if c.Heat, err = over(seconds, c, m, heat.ScaleOf(m)); err != nil {
						return nil, err
					}
				}
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// WriteListingHTML writes the page to w.
func WriteListingHTML(w io.Writer, p *ListingPage) error {
	if p.Listing == nil || p.File == nil {
		return errors.New("writing report: no listing, or no score file that it is of")
	}
	type shown struct {
		Path  string
		Chart template.HTML
	}
	v := struct {
		*ListingPage
		Rows   []compare.Listed
		Rest   int
		Charts []shown
		Facts  []Fact
	}{ListingPage: p, Rows: p.Listing.Videos[:min(rowsShown, len(p.Listing.Videos))], Facts: p.facts()}
	v.Rest = len(p.Listing.Videos) - len(v.Rows)
	for i, c := range p.Shown {
		if len(c.Seconds) == 0 {
			continue
		}
		peak := mark{seconds: -1}
		if at := p.Listing.Videos[i].PeakAt; at != nil {
			peak = mark{at.Second, "most"}
		}
		drawn, err := chart(fmt.Sprintf("video%d", i), "Surprise over time of "+c.Path, []row{{"video", colourModel, c}}, c.Seconds[0], c.Seconds[len(c.Seconds)-1], peak)
		if err != nil {
			return fmt.Errorf("writing report: %w", err)
		}
		v.Charts = append(v.Charts, shown{c.Path, drawn})
	}
	if err := pageTemplates.ExecuteTemplate(w, "listing.html", v); err != nil {
		return fmt.Errorf("writing report: %w", err)
	}
	return nil
}

func (p *ListingPage) facts() []Fact {
	out := append(scoring(p.File), Fact{Name: "statistic", Value: p.Listing.Aggregation.String()})
	if p.Reference != nil {
		out = append(out, Fact{Name: "reference, videos", Value: strconv.Itoa(p.Listing.Reference.Videos)}, Fact{Name: "reference, SHA-256", Value: p.Reference.Data})
	}
	return append(out, p.Facts...)
}

// SaveListing writes the page to path: whole, or not at all.
func SaveListing(path string, p *ListingPage) error {
	return durable.WriteFile(path, 0o644, func(w io.Writer) error { return WriteListingHTML(w, p) })
}

// SaveListingJSON writes a page's numbers to path: whole, or not at all.
func SaveListingJSON(path string, p *ListingPage) error {
	return durable.WriteFile(path, 0o644, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		return enc.Encode(struct {
			Title      string           `json:"title"`
			Made       string           `json:"made"`
			Listing    *compare.Listing `json:"listing"`
			Provenance []Fact           `json:"provenance"`
		}{p.Title, p.Made, p.Listing, p.facts()})
	})
}

// SaveListingCSV writes a line per video, those that surprise most first, then the skipped ones with the reason, to path:
// whole, or not at all.
func SaveListingCSV(path string, l *compare.Listing) error {
	header := []string{"path", "peak_seconds", "peak_frame", "skipped"}
	for _, c := range l.Columns {
		header = append(header, "surprise: "+c, "percentile: "+c, "p: "+c)
	}
	maybe := func(x *float64) string {
		if x == nil {
			return ""
		}
		return number(*x)
	}
	lines := [][]string{header}
	for _, v := range l.Videos {
		line := []string{v.Path, "", frame(v.PeakAt), ""}
		if v.PeakAt != nil {
			line[1] = number(v.PeakAt.Second)
		}
		for _, c := range v.Columns {
			line = append(line, number(c.Surprise), maybe(c.Percentile), maybe(c.P))
		}
		lines = append(lines, line)
	}
	for _, s := range l.Skipped {
		line := make([]string, len(header))
		line[0], line[3] = s.Path, s.Reason
		lines = append(lines, line)
	}
	return saveCSV(path, lines)
}
