package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
)

// madeUpListing is of the videos of madeUp, without their labels, judged by as many others.
func madeUpListing(t *testing.T, groups int) *ListingPage {
	t.Helper()
	f, reference := madeUp(groups), madeUp(groups)
	for i := range f.Videos {
		v := &f.Videos[i]
		v.Label, v.Group, v.Property, v.Pair, v.SHA256 = compare.NoLabel, "", "", "", "other "+v.SHA256
		f.Sets[0].Scores[i].PeakAt = &compare.Place{Frame: 9, Second: 0.9, Row: 40, Column: 40}
	}
	f.Skipped[0].Group = ""
	f.Data, f.Notes = compare.Digest(f.Videos), []string{"seen in training"}
	listing, err := compare.List(f, reference, compare.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &ListingPage{Title: "Recordings", Made: "by a test", Listing: listing, File: f, Reference: reference, Facts: []Fact{{"command", "surmise report"}}}
}

func TestListingHTML(t *testing.T) {
	page := madeUpListing(t, 60) // 240 videos
	maps := &heat.Maps{}
	for range page.File.Videos[1:] { // the last does not fit
		m := heat.Map{Tubelets: 14, Height: 4, Width: 4, Values: make([]float32, 14*16)}
		m.Values[3] = 1
		maps.Add(map[string]heat.Map{compare.ModelSet: m, compare.TwinSet: m})
	}
	var err error
	if page.Shown, err = MostSurprising(t.Context(), page.File, page.Listing, 5, discs{}, maps); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "report.html")
	if err := SaveListing(path, page); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	if n := checkStructure(t, text); n != 2 {
		t.Errorf("%d tables, want videos and provenance", n)
	}
	first := page.Listing.Videos[0]
	for _, want := range []string{"<title>Recordings</title>", "Of 240 videos ", "among the 120 videos of the reference", "And 40 more, which surprise less", first.Path,
		`<span class="tag">0.0164</span>`, fmt.Sprintf("%.4f", first.Columns[0].Surprise), "<td>0.90 s</td>", "seen in training", "no video stream",
		strings.Repeat("ab", 32), "reference, SHA-256", "surmise report", ">most</text>"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if n := strings.Count(text, "data:image/jpeg"); n != 5*framesShown {
		t.Errorf("%d frames in the page, want %d", n, 5*framesShown)
	}
	if n := strings.Count(text, `<image class="heat"`); n != 5*framesShown && n != 4*framesShown {
		t.Errorf("%d maps in the page", n)
	}
	if dir := os.Getenv("SURMISE_REPORT_DIR"); dir != "" { // to look at what the test made
		if err := SaveListing(filepath.Join(dir, "listing.html"), page); err != nil {
			t.Fatal(err)
		}
	}
}

func TestListingWithLittle(t *testing.T) {
	page := madeUpListing(t, 1)
	page.File.Sets = page.File.Sets[:1]
	for i := range page.File.Videos {
		page.File.Sets[0].Scores[i].PeakAt = nil
	}
	var err error
	if page.Listing, err = compare.List(page.File, nil, compare.Options{}); err != nil {
		t.Fatal(err)
	}
	page.Reference = nil
	if page.Shown, err = MostSurprising(t.Context(), page.File, page.Listing, 50, nil, nil); err != nil || len(page.Shown) != 4 {
		t.Fatalf("%d videos, %v", len(page.Shown), err)
	}
	var b bytes.Buffer
	if err := WriteListingHTML(&b, page); err != nil {
		t.Fatal(err)
	}
	checkStructure(t, b.String())
	if text := b.String(); strings.Contains(text, "percentile</th>") || !strings.Contains(text, "Without a reference") {
		t.Errorf("without a reference:\n%s", text)
	}
	if err := WriteListingHTML(&b, &ListingPage{Title: "nothing"}); err == nil {
		t.Error("a page of nothing was written")
	}
	page.File.Folder = "/elsewhere"
	if _, err := MostSurprising(t.Context(), page.File, page.Listing, 1, discs{}, nil); err == nil || !strings.Contains(err.Error(), "/elsewhere/") {
		t.Errorf("videos that are gone: %v", err)
	}
}

func TestListingEscapesNames(t *testing.T) {
	const evil = `<script>alert("x")</script>`
	page := madeUpListing(t, 2)
	for i := range page.Listing.Videos {
		page.Listing.Videos[i].Path = evil
	}
	page.Title, page.Listing.Warnings, page.Listing.Skipped[0].Reason, page.File.Decoder = evil, []string{evil}, evil, evil
	page.Facts = []Fact{{evil, evil}}
	var err error
	if page.Shown, err = MostSurprising(t.Context(), page.File, page.Listing, 2, discs{}, nil); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteListingHTML(&b, page); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "<script") {
		t.Error("a name became markup")
	}
}

// The numbers beside the page are those of the page.
func TestListingData(t *testing.T) {
	page := madeUpListing(t, 60)
	page.Listing.Videos[1].PeakAt, page.Listing.Videos[1].Columns[1].P, page.Listing.Videos[1].Columns[1].Percentile = nil, nil, nil
	dir := t.TempDir()
	if err := errors.Join(SaveListingJSON(filepath.Join(dir, "report.json"), page), SaveListingCSV(filepath.Join(dir, "videos.csv"), page.Listing)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct{ Listing compare.Listing }
	if err := json.Unmarshal(text, &d); err != nil || len(d.Listing.Videos) != 240 || *d.Listing.Videos[0].Columns[0].P != *page.Listing.Videos[0].Columns[0].P || d.Listing.Reference.Videos != 120 {
		t.Errorf("report.json holds %+v, %v", d.Listing.Reference, err)
	}
	f, err := os.Open(filepath.Join(dir, "videos.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	first, last := lines[1], lines[len(lines)-1]
	if len(lines) != 1+240+1 || !slices.Equal(lines[0][:7], []string{"path", "peak_seconds", "peak_frame", "skipped", "surprise: model", "percentile: model", "p: model"}) ||
		first[0] != page.Listing.Videos[0].Path || first[1] != "0.9" || first[2] != "9" || first[4] != fmt.Sprint(page.Listing.Videos[0].Columns[0].Surprise) ||
		lines[2][1] != "" || lines[2][9] != "" || last[0] != "pairs/broken.mp4" || last[3] != "no video stream" {
		t.Errorf("videos.csv: %v … %v", lines[:3], last)
	}
}
