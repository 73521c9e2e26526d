package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A job file stands in for a preset: its model, batch and masks are timed under its name.
func TestBenchOfAJobFile(t *testing.T) {
	dir := t.TempDir()
	job := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mine := job("mine.json", `{"train":{"preset":"nano","batch":2,"precision":"bf16","model":{"size":32,"frames":4,"dim":24,"depth":1,"heads":2,"predDim":24,"predDepth":1,"predHeads":2}}}`)
	var got struct {
		Preset    string
		Precision string
		Device    string
		Batch     int
		Losses    []float64
	}
	if err := json.Unmarshal([]byte(ok(t, "bench", "-f", mine, "--device", "cpu", "--precision", "fp32", "--steps", "19", "--threads", "1", "--json")), &got); err != nil {
		t.Fatal(err)
	}
	if got.Preset != "mine" || got.Precision != "fp32" || got.Device != "cpu" || got.Batch != 2 {
		t.Errorf("timed %+v", got)
	}
	if len(got.Losses) != 2 || !(got.Losses[0] > 0) || got.Losses[0] == got.Losses[1] {
		t.Errorf("losses of step 10 and 20: %v", got.Losses)
	}
	for says, args := range map[string][]string{
		"it has no train job": {"-f", job("score.json", `{"score":{"pairs":"pairs.csv","model":"m"}}`)},
		"no such file":        {"-f", filepath.Join(dir, "none.json")},
		"exclude each other":  {"-f", mine, "--preset", "tiny"},
	} {
		if code, _, said := surmise(t, "", append([]string{"bench"}, args...)...); code != exitUsage || !strings.Contains(said, says) {
			t.Errorf("%v: exit code %d, %s", args, code, said)
		}
	}
}
