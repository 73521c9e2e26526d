package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/plausibility"
	"github.com/surmise-ml/surmise/plausibility/compare"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/video/synth"
)

// checkReportsAndRanks writes the reports of a model that was just trained, and ranks futures with it; here, and through
// the coordinator.
func checkReportsAndRanks(t *testing.T, to string, made synth.Summary, trained, modelPath string) {
	t.Helper()
	dir := t.TempDir()
	scores := filepath.Join(dir, "scores.json")
	ok(t, "score", "--model", modelPath, "--pairs", made.PairsCSV, "--out", scores, "--stride", "4", "--maps", "--copy-last-frame", "--recolour")
	other := filepath.Join(dir, "other.json")
	ok(t, "score", "--model", modelPath, "--pairs", made.PairsCSV, "--out", other, "--stride", "4", "--seed", "1")
	out := filepath.Join(dir, "report")
	page := strings.TrimSpace(ok(t, "report", scores, other, "--out", out, "--run", filepath.Dir(modelPath), "--title", "Tiny"))
	text, err := os.ReadFile(page)
	if err != nil || page != filepath.Join(out, "report.html") {
		t.Fatalf("page %q: %v", page, err)
	}
	for _, want := range []string{"<title>Tiny</title>", "When and where surprise peaks", "copy last frame", "Controls", "recolour", "Beside another model", "loss over training steps",
		`class="heat"`, "training, videos", load(t, scores).Sets[0].Model.SHA256} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	checkListing(t, made, modelPath, scores)
	// A statistic of where pairs part, which the altered copies do not: they are judged by another.
	parting := strings.TrimSpace(ok(t, "report", scores, "--out", filepath.Join(dir, "parting"), "--measure", "contrast_at_parting"))
	if text, err := os.ReadFile(parting); err != nil || !strings.Contains(string(text), "recolour") || !strings.Contains(string(text), "contrast_at_parting, was chosen with --measure") {
		t.Errorf("a report by contrast_at_parting: %v", err)
	}
	if text := ok(t, "compare", filepath.Join(dir, "scores.controls.json")); !strings.Contains(text, "recolour") || strings.Contains(text, "Pooled over all") {
		t.Errorf("controls are compared as\n%s", text)
	}
	overlays, err := filepath.Glob(filepath.Join(out, "overlay-*.avi"))
	if err != nil || len(overlays) == 0 {
		t.Errorf("overlays %v, %v", overlays, err)
	}
	for _, name := range []string{"report.json", "table.csv", "videos.csv", "scores.png", "scores.svg", "training.png", "training.svg"} {
		if info, err := os.Stat(filepath.Join(out, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	var numbers struct {
		Localisation compare.Localisation
		Training     []struct{ Step int }
	}
	data, err := os.ReadFile(filepath.Join(out, "report.json"))
	if err != nil || json.Unmarshal(data, &numbers) != nil || len(numbers.Localisation.Rows) == 0 || len(numbers.Training) != 8 {
		t.Errorf("report.json: %+v, %v", numbers, err)
	}
	f, err := os.Open(filepath.Join(out, "videos.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if lines, err := csv.NewReader(f).ReadAll(); err != nil || len(lines) != 1+len(load(t, scores).Videos) {
		t.Errorf("videos.csv has %d lines, %v", len(lines), err)
	}

	// Of a job: scores and training curves are found by its name. Videos that have gone leave a page without frames.
	job := strings.TrimSpace(ok(t, "submit", to, "--score", made.PairsCSV, "--model", trained, "--wait"))
	fromJob := filepath.Join(dir, "job")
	ok(t, "report", to, job, "--out", fromJob)
	if text, err := os.ReadFile(filepath.Join(fromJob, "report.html")); err != nil || !strings.Contains(string(text), "loss over training steps") {
		t.Errorf("the report of a job: %v", err)
	}
	moved := load(t, scores)
	moved.Folder = "/no/such/folder"
	if err := moved.Save(filepath.Join(dir, "moved.json")); err != nil {
		t.Fatal(err)
	}
	code, _, notes := surmise(t, "", "report", filepath.Join(dir, "moved.json"), "--out", filepath.Join(dir, "moved"))
	if code != exitOK || !strings.Contains(notes, "frames are left out") {
		t.Errorf("videos that are gone: exit code %d\n%s", code, notes)
	}
	for want, args := range map[string][]string{
		"nope.json":       {"report", "nope.json", "--out", out},
		"--run: event":    {"report", scores, "--out", out, "--run", dir},
		"--measure: aggr": {"report", scores, "--out", out, "--measure", "best"},
		"has no scores":   {"report", to, trained, "--out", out},
		"are controls":    {"report", filepath.Join(dir, "scores.controls.json"), "--out", out},
	} {
		if code, _, shown := surmise(t, "", args...); code != exitUsage || !strings.Contains(shown, want) {
			t.Errorf("surmise %s: exit code %d\n%s", strings.Join(args, " "), code, shown)
		}
	}

	clips, err := filepath.Glob(filepath.Join(made.ClipsDir, "*"))
	if err != nil || len(clips) < 3 {
		t.Fatalf("clips %v, %v", clips, err)
	}
	one := ok(t, "rank", "--model", modelPath, "--context", clips[0], "--candidates", clips[1]+","+clips[2], "--twin")
	if !strings.Contains(one, clips[1]) || !strings.Contains(one, "TWIN'S") || strings.Count(one, "\n") != 5 {
		t.Errorf("rank prints\n%s", one)
	}
	list := filepath.Join(made.ClipsDir, "..", "sets.jsonl")
	var lines strings.Builder
	for _, c := range clips {
		fmt.Fprintf(&lines, "{\"context\":%q,\"make\":\"speed\"}\n", filepath.Join("clips", filepath.Base(c)))
	}
	if err := os.WriteFile(list, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if summary := ok(t, "rank", "--model", modelPath, "--list", list); !strings.Contains(summary, fmt.Sprintf("speed  %d ", len(clips))) {
		t.Errorf("rank of a list prints\n%s", summary)
	}
	rankings := &surmisev1.Rankings{}
	if err := protojson.Unmarshal([]byte(ok(t, "rank", "--json", "--model", modelPath, "--context", clips[0], "--make", "time-direction")), rankings); err != nil || len(rankings.Rankings[0].Futures) != 2 {
		t.Errorf("rank --json: %v, %v", rankings, err)
	}

	// The same through the coordinator.
	client, err := connect(dial.Options{Address: strings.TrimPrefix(to, "--coordinator=")})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	answer, err := surmisev1.NewPlausibilityServiceClient(client.conn).RankContinuations(t.Context(), &surmisev1.RankContinuationsRequest{
		Spec: &surmisev1.RankSpec{Model: trained, Sets: []*surmisev1.RankSet{{Context: clips[0], Make: "time-direction"}}}})
	if err != nil {
		t.Fatal(err)
	}
	for i, future := range answer.Rankings[0].Futures {
		if here := rankings.Rankings[0].Futures[i]; future.Name != here.Name || future.Energy != here.Energy {
			t.Errorf("place %d: %s at the worker, %s here", i+1, future, here)
		}
	}
}

// What a summary does not count is printed: the only set of a list, and sets of candidates.
func TestRankingsOfAList(t *testing.T) {
	ranking := func(context, made string) plausibility.Ranking {
		return plausibility.Ranking{Context: context, Make: made, Frames: 4, ContextFrames: 4, Futures: []plausibility.RankedFuture{{Name: "future of " + context}, {Candidate: 1, Energy: 1}}}
	}
	for _, c := range []struct {
		rankings []plausibility.Ranking
		orders   string // contexts whose order is printed
		summary  bool
	}{
		{[]plausibility.Ranking{ranking("a", plausibility.Speed)}, "a", false},
		{[]plausibility.Ranking{ranking("a", "")}, "a", false},
		{[]plausibility.Ranking{ranking("a", ""), ranking("b", "")}, "ab", false},
		{[]plausibility.Ranking{ranking("a", plausibility.Speed), ranking("b", plausibility.Speed)}, "", true},
		{[]plausibility.Ranking{ranking("a", plausibility.Speed), ranking("b", ""), ranking("c", plausibility.Speed)}, "b", true},
	} {
		var out strings.Builder
		if err := writeRankings(&out, c.rankings, false); err != nil {
			t.Fatal(err)
		}
		var orders string
		for _, r := range c.rankings {
			if strings.Contains(out.String(), "future of "+r.Context) {
				orders += r.Context
			}
		}
		if orders != c.orders || strings.Contains(out.String(), "MADE") != c.summary || strings.Contains(out.String(), "\n\n\n") {
			t.Errorf("%v prints\n%s", c.rankings, out.String())
		}
	}
}

func TestRankListsAreChecked(t *testing.T) {
	t.Chdir(t.TempDir())
	for text, want := range map[string]string{
		"":                                      "names no set",
		"{}\n{\"context\":\"a\",\"maker\":1}\n": "line 2: json: unknown field",
		"no\n":                                  "line 1: invalid character",
		"{\"context\":\"" + strings.Repeat("a", 1<<19) + "\"}": "token too long",
	} {
		if _, err := readRankSets("-", strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want an error with %q", text, err, want)
		}
	}
	sets, err := readRankSets("-", strings.NewReader(`{"context":"a.avi","candidates":["/b.avi","c.avi"]}`+"\n\n"+`{"context":"s3://x/d.avi","make":"speed"}`))
	if err != nil || len(sets) != 2 || sets[0].Candidates[0] != "/b.avi" || sets[1].Context != "s3://x/d.avi" {
		t.Errorf("%v, %v", sets, err)
	}
}

// checkListing scores videos without labels with a model, and judges them by the scores of pairs.
func checkListing(t *testing.T, made synth.Summary, modelPath, pairs string) {
	t.Helper()
	dir := t.TempDir()
	clips := filepath.Join(dir, "clips.json")
	if text := ok(t, "score", "--model", modelPath, "--videos", made.ClipsDir, "--out", clips, "--stride", "4", "--maps"); !strings.Contains(text, "Videos by how much they surprise the model") || !strings.Contains(text, "warning: ") {
		t.Errorf("score prints\n%s", text)
	}
	f := load(t, clips)
	if !f.Unlabelled() {
		t.Errorf("the first of the scores is %+v", f.Videos[0])
	}
	var listing compare.Listing
	if err := json.Unmarshal([]byte(ok(t, "compare", clips, "--reference", pairs, "--json")), &listing); err != nil || listing.Reference == nil || listing.Videos[0].Columns[0].P == nil {
		t.Errorf("compare --json: %+v, %v", listing, err)
	}
	if text := ok(t, "compare", clips, "--reference", pairs, "--videos", "--measure", "avg"); strings.Count(text, ".avi") < len(f.Videos) || !strings.Contains(text, "Statistic: avg") || !strings.Contains(text, "percentile") {
		t.Errorf("compare prints\n%s", text)
	}
	out := filepath.Join(dir, "report")
	page := strings.TrimSpace(ok(t, "report", clips, "--reference", pairs, "--out", out, "--pairs", "2"))
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Which videos surprise", "of the reference", `class="heat"`, "data:image/jpeg", f.Sets[0].Model.SHA256, load(t, pairs).Data} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, name := range []string{"report.json", "videos.csv", "overlay-01.avi", "overlay-02.avi"} {
		if info, err := os.Stat(filepath.Join(out, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	ok(t, "report", clips, "--out", out, "--pairs", "1")
	if left, err := filepath.Glob(filepath.Join(out, "overlay-*")); err != nil || len(left) != 1 {
		t.Errorf("overlays of two reports in one folder: %v, %v", left, err)
	}
	if text := ok(t, "compare", pairs, pairs); !strings.Contains(text, "hold scores of the same weights: between them there is nothing to tell") {
		t.Errorf("scores beside themselves:\n%s", text)
	}
	for want, args := range map[string][]string{
		"the videos have labels":                                 {"compare", pairs, "--reference", clips},
		"2 score files; videos without labels are listed":        {"compare", clips, clips},
		"--plot: it draws how pairs are told apart":              {"compare", clips, "--plot", filepath.Join(dir, "x.png")},
		"--reference: opening score file":                        {"compare", clips, "--reference", filepath.Join(dir, "nope.json")},
		"--reference: it is for videos without labels":           {"report", pairs, "--reference", clips, "--out", out},
		"2 score files; videos without labels are listed of one": {"report", clips, pairs, "--out", out},
		"the videos have no labels":                              {"compare", clips, "--published"},
	} {
		if code, _, said := surmise(t, "", args...); code != exitUsage || !strings.Contains(said, want) {
			t.Errorf("%v: exit code %d\n%s", args, code, said)
		}
	}
}
