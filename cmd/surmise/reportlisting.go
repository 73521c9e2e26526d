package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
	"github.com/surmise-ml/surmise/plausibility/report"
	"github.com/surmise-ml/surmise/video"
	"github.com/surmise-ml/surmise/video/overlay"
)

// unlabelled tells whether the report is about videos without labels.
func (o *reportOptions) unlabelled() (bool, error) {
	if err := o.load(); err != nil {
		return false, badInput(err)
	}
	f := o.files[0]
	if !f.Unlabelled() && o.reference != "" {
		return false, badInput(fmt.Errorf("--reference: it is for videos without labels, and those of %s have some", o.scores[0]))
	}
	if f.Unlabelled() && len(o.scores) > 1 {
		return false, badInput(fmt.Errorf("%d score files; videos without labels are listed of one", len(o.scores)))
	}
	return f.Unlabelled(), nil
}

// writeListing writes the report of videos without labels as writeReport does that of pairs.
func writeListing(ctx context.Context, o reportOptions, notes io.Writer) (string, error) {
	page := &report.ListingPage{Title: o.title, Made: o.made, Facts: o.facts, File: o.files[0]}
	var err error
	if o.reference != "" {
		if page.Reference, err = loadScores(o.reference); err != nil {
			err = fmt.Errorf("--reference: %w", err)
		}
	}
	if err == nil {
		page.Listing, err = compare.List(page.File, page.Reference, o.compare)
	}
	if err != nil {
		return "", badInput(err)
	}
	page.Title = cmp.Or(page.Title, "Surprise of "+page.File.Sets[0].Model.Name)
	if o.run != "" {
		page.Facts = append(page.Facts, trainingVideos(o.run)...)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return "", fmt.Errorf("--out: %w", err)
	}
	if err := removeOverlays(o.out); err != nil {
		return "", fmt.Errorf("--out: %w", err)
	}
	if err := o.addShown(ctx, page, notes); err != nil {
		return "", err
	}
	in := func(name string) string { return filepath.Join(o.out, name) }
	for _, save := range []func() error{
		func() error { return report.SaveListingJSON(in("report.json"), page) },
		func() error { return report.SaveListingCSV(in("videos.csv"), page.Listing) },
		func() error { return report.SaveListing(in("report.html"), page) },
	} {
		if err := save(); err != nil {
			return "", err
		}
	}
	return in("report.html"), nil
}

// addShown adds the videos that surprise most with their frames and maps, and writes their overlays.
func (o *reportOptions) addShown(ctx context.Context, page *report.ListingPage, notes io.Writer) error {
	f := page.File
	decoders, done := video.OwnPool(nil)
	defer done()
	read := asScored(decoders, f)
	var frames report.FrameSource
	var maps report.MapSource
	var kept *heat.Maps
	if !o.noFrames {
		frames = plausibility.Stills{Size: f.Size, Read: read}
		if f.Maps != nil {
			var err error
			if kept, err = heat.Load(filepath.Dir(o.scores[0]), f); err != nil {
				fmt.Fprintf(notes, "maps of surprise are left out: %v\n", err)
			} else {
				maps = kept
			}
		}
	}
	var err error
	page.Shown, err = report.MostSurprising(ctx, f, page.Listing, o.pairs, frames, maps)
	if err != nil && frames != nil && ctx.Err() == nil {
		fmt.Fprintf(notes, "frames are left out: %v\n", err)
		kept = nil
		page.Shown, err = report.MostSurprising(ctx, f, page.Listing, o.pairs, nil, nil)
	}
	if err != nil {
		return err
	}
	for i, c := range page.Shown {
		m, ok := heat.Map{}, false
		if kept != nil {
			m, ok = kept.Of(compare.ModelSet, c.Video)
		}
		if !ok {
			continue
		}
		path := filepath.Join(o.out, fmt.Sprintf("overlay-%02d%s", i+1, overlay.Extension))
		shown := []overlaid{{"surprise", c, m}}
		if err := writeOverlays(ctx, path, f, shown, -1, read); err != nil {
			return err
		}
	}
	return nil
}
