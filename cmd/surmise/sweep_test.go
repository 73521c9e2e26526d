package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/video/synth"
)

// serveCoordinator runs a coordinator without workers and returns its address.
func serveCoordinator(t *testing.T) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	listening := make(chan net.Addr, 1)
	served := make(chan error, 1)
	go func() {
		served <- coordinatorcmd.Run(ctx, coordinatorcmd.Options{Listen: "127.0.0.1:0", DataDir: t.TempDir(), LeaseDuration: time.Minute,
			Logger: slog.New(slog.DiscardHandler), Serving: func(a net.Addr) { listening <- a }})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return (<-listening).String()
}

func TestSweepCommand(t *testing.T) {
	address := serveCoordinator(t)
	file := filepath.Join(t.TempDir(), "sweep.json")
	if err := os.WriteFile(file, []byte(`{"train":{"data":["c"]},"seeds":[1,2],"parameters":[{"path":"train.steps","grid":[10,20]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	sweep := func(args ...string) string {
		t.Helper()
		return ok(t, append([]string{"sweep", "--coordinator", address}, args...)...)
	}
	if out := sweep("-f", file, "--validate-only"); !strings.Contains(out, `"children":4`) || strings.Contains(out, `"name":"sweeps/`) {
		t.Errorf("only checked: %s", out)
	}
	name := strings.TrimSpace(sweep("-f", file, "--display-name", "tries"))
	table := sweep(strings.TrimPrefix(name, "sweeps/"))
	for _, want := range []string{
		`^` + name + `  4 children: 4 QUEUED  tries\n`,
		`\nJOB +STATE +STEP +LOSS +train.seed +train.steps +NOTE\n`,
		`\njobs/\S+ +QUEUED +- +- +1 +10 +-\njobs/\S+ +QUEUED +- +- +2 +10 +-\njobs/\S+ +QUEUED +- +- +1 +20 +-\n`,
	} {
		if !regexp.MustCompile(want).MatchString(table) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	if lines := strings.Count(sweep(name, "--json"), "\n"); lines != 5 {
		t.Errorf("%d lines of JSON, want the sweep and 4 children", lines)
	}
	if list := sweep(); !regexp.MustCompile(`\n` + name + ` +\d+s +4 children: 4 QUEUED +tries\n`).MatchString(list) {
		t.Errorf("listed as\n%s", list)
	}
	if out := sweep(name, "--cancel"); out != name+" 4 children: 4 CANCELLED\n" {
		t.Errorf("cancelled: %s", out)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-f", file, name}, "want one of them"},
		{[]string{"--cancel"}, "want the NAME"},
		{[]string{"--score", "pairs.csv"}, "--score: want the NAME of a sweep"},
		{[]string{name, "--score", "pairs.csv"}, name + " has no models: none of its jobs has succeeded: 4 children: 4 CANCELLED"},
		{[]string{name, "--score", "pairs.csv", "--cancel"}, "exclude each other"},
		{[]string{name, "--request-id", "r"}, "belong to -f"},
		{[]string{"-f", filepath.Join(t.TempDir(), "none")}, "sweep file: open "},
	} {
		code, out, errOut := surmise(t, "", append([]string{"sweep", "--coordinator", address}, c.args...)...)
		if code != exitUsage || out != "" || !strings.Contains(errOut, c.want) {
			t.Errorf("%q: code %d, %q, %q", c.args, code, out, errOut)
		}
	}
	code, _, errOut := surmise(t, `{"train":{"data":["c"]},"parameters":[{"path":"train.stepz","grid":[1]}]}`, "sweep", "--coordinator", address, "-f", "-")
	if code != exitUsage || !strings.Contains(errOut, `train.stepz: TrainSpec has no field "stepz"`) {
		t.Errorf("code %d, %s", code, errOut)
	}
}

func TestSweepTableIsBestFirst(t *testing.T) {
	value := func(v float64) *float64 { return &v }
	sweep := &surmisev1.Sweep{Name: "sweeps/s", Children: 4, Request: &surmisev1.SubmitSweepRequest{
		Metric: &surmisev1.SweepMetric{Name: "accuracy", Goal: surmisev1.Goal_MAXIMIZE}}}
	children := []*surmisev1.SweepChild{
		{Job: "jobs/waits", State: surmisev1.JobState_QUEUED},
		{Job: "jobs/stopped", State: surmisev1.JobState_CANCELLED, Metric: value(0.99), Reason: "ended early: why"},
		{Job: "jobs/good", State: surmisev1.JobState_SUCCEEDED, Metric: value(0.6)},
		{Job: "jobs/best", State: surmisev1.JobState_SUCCEEDED, Metric: value(0.9)},
	}
	sweep.Best = children[3]
	var out strings.Builder
	if err := writeSweep(&out, sweep, children); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?s)best: jobs/best  accuracy 0.9 .*\njobs/best.*\njobs/good.*\njobs/stopped.*ended early: why\njobs/waits`).MatchString(out.String()) {
		t.Errorf("got\n%s", out.String())
	}
}

// Seeds of one setting are trainings of one model: settings are told apart by the mean over them.
func TestSweepTableOverSeeds(t *testing.T) {
	child := func(name, rate, seed string, loss float64) *surmisev1.SweepChild {
		return &surmisev1.SweepChild{Job: "jobs/" + name, State: surmisev1.JobState_SUCCEEDED, Metric: &loss,
			Values: map[string]string{"train.optimizer.learning_rate": rate, "train.seed": seed}}
	}
	children := []*surmisev1.SweepChild{child("a", "0.1", "1", 0.2), child("b", "0.1", "2", 0.6), child("c", "0.2", "1", 0.3), child("d", "0.2", "2", 0.3), child("e", "0.2", "3", 0.2)}
	sweep := &surmisev1.Sweep{Name: "sweeps/s", Best: children[0], Request: &surmisev1.SubmitSweepRequest{Metric: &surmisev1.SweepMetric{Name: "loss"}}}
	var out strings.Builder
	if err := writeSweep(&out, sweep, children); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`best: jobs/a  loss 0.2 .*\(the same as 1 more\)(?s:.*)SEEDS +MEAN LOSS +SD +SETTING\n3 +0.266667 +0.058 +train.optimizer.learning_rate=0.2\n2 +0.4 +0.28 +train.optimizer.learning_rate=0.1\n$`).MatchString(out.String()) {
		t.Errorf("%s", out.String())
	}
}

// checkSweepScores trains with several settings and seeds and scores what comes of it.
func checkSweepScores(t *testing.T, to string, made synth.Summary) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sweep.json")
	text := fmt.Sprintf(`{"train":{"data":[%q],"steps":1,"batch":2,%s},"seeds":[1,2],"parameters":[{"path":"train.optimizer.learning_rate","grid":[0.001,0.01]}]}`, made.ClipsDir, tinyModel)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ended := func(name string) string {
		table := ok(t, "sweep", to, name)
		for _, job := range regexp.MustCompile(`(?m)^jobs/\S+`).FindAllString(table, -1) {
			ok(t, "watch", to, job)
		}
		return ok(t, "sweep", to, name)
	}
	trained := strings.TrimSpace(ok(t, "sweep", to, "-f", file))
	ended(trained)
	if code, _, said := surmise(t, "", "sweep", to, trained, "--score", filepath.Join(t.TempDir(), "none.csv")); code != exitOK {
		t.Errorf("pairs that only the worker can look for: exit code %d, %s", code, said)
	}
	scored := strings.TrimSpace(ok(t, "sweep", to, trained, "--score", made.PairsCSV, "--request-id", "scores"))
	if again := strings.TrimSpace(ok(t, "sweep", to, trained, "--score", made.PairsCSV, "--request-id", "scores")); again != scored {
		t.Errorf("asked again: %s, want %s", again, scored)
	}
	table := ended(scored)
	for _, want := range []string{
		`^` + scored + `  4 children: 4 SUCCEEDED  scores of ` + trained + `\n`,
		`\nbest: jobs/\S+  pairwise_accuracy \S+  score.model="jobs/\S+" train.optimizer.learning_rate=0.01? train.seed=[12]`,
		`\nJOB +STATE +STEP +PAIRWISE_ACCURACY +score.model +train.optimizer.learning_rate +train.seed +NOTE\n`,
		`\nSEEDS +MEAN PAIRWISE_ACCURACY +SD +SETTING\n2 .* train.optimizer.learning_rate=0.01?\n2 .* train.optimizer.learning_rate=0.01?\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(strings.ReplaceAll(table, "0.001", "0.0")) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	if code, _, said := surmise(t, "", "sweep", to, scored, "--score", made.PairsCSV); code != exitUsage || !strings.Contains(said, scored+" trained no models") {
		t.Errorf("scores of scores: exit code %d, %s", code, said)
	}
}
