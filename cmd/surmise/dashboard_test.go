package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Metrics in expressions, and in what was scraped, with their labels.
var (
	usedMetric    = regexp.MustCompile(`\b(surmise_[a-z0-9_]+)(\{[^}]*\})?`)
	matcher       = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"([^"]*)"`)
	scrapedSample = regexp.MustCompile(`(?m)^(surmise_[a-z0-9_]+)(\{[^}]*\})? \S+$`)
)

// scraped is what a page of metrics has: metric, label, value.
type scraped map[string]map[string]map[string]bool

func readScraped(text string) scraped {
	out := scraped{}
	for _, sample := range scrapedSample.FindAllStringSubmatch(text, -1) {
		labels := out[sample[1]]
		if labels == nil {
			labels = map[string]map[string]bool{}
			out[sample[1]] = labels
		}
		for _, l := range matcher.FindAllStringSubmatch(sample[2], -1) {
			if labels[l[1]] == nil {
				labels[l[1]] = map[string]bool{}
			}
			labels[l[1]][l[3]] = true
		}
	}
	return out
}

// check holds one expression to what is exported: its metrics, and of those the labels and, where one is named, the values.
func (s scraped) check(t *testing.T, where, expr string) {
	t.Helper()
	used := usedMetric.FindAllStringSubmatch(expr, -1)
	if len(used) == 0 {
		t.Errorf("%s: no metric in %s", where, expr)
	}
	for _, m := range used {
		labels, ok := s[m[1]]
		if !ok {
			t.Errorf("%s: nothing exports %s", where, m[1])
			continue
		}
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if l[1] == "instance" { // Prometheus adds it
				continue
			}
			if labels[l[1]] == nil {
				t.Errorf("%s: %s has no label %s", where, m[1], l[1])
				continue
			}
			for _, value := range strings.Split(l[3], "|") {
				if !labels[l[1]][value] {
					t.Errorf("%s: %s has no %s %q", where, m[1], l[1], value)
				}
			}
		}
	}
}

// checkDashboards holds the dashboard and the alerts in deploy/prometheus to the metrics that are exported. text is what
// was scraped of a coordinator and a worker that have done everything.
func checkDashboards(t *testing.T, text string) {
	t.Helper()
	exported := readScraped(text)
	dir := filepath.Join("..", "..", "deploy", "prometheus")
	file, err := os.ReadFile(filepath.Join(dir, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(file, &dashboard); err != nil {
		t.Fatalf("dashboard.json: %v", err)
	}
	shown := map[string]bool{}
	for _, p := range dashboard.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			exported.check(t, "panel "+p.Title, target.Expr)
			for _, m := range usedMetric.FindAllStringSubmatch(target.Expr, -1) {
				shown[m[1]] = true
			}
		}
	}
	for _, must := range []string{"surmise_jobs_waiting", "surmise_dispatch_seconds_bucket", "surmise_lease_losses_total", "surmise_video_verdicts_total",
		"surmise_training_clips_per_second", "surmise_training_data_wait_ratio", "surmise_training_step_seconds", "surmise_training_loss", "surmise_collapse_effective_rank",
		"surmise_collapse_feature_std", "surmise_collapse_cosine"} {
		if !shown[must] {
			t.Errorf("no panel shows %s", must)
		}
	}
	alerts, err := os.ReadFile(filepath.Join(dir, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	expressions := regexp.MustCompile(`(?m)^ +expr: (.+)$`).FindAllStringSubmatch(string(alerts), -1)
	if len(expressions) == 0 {
		t.Error("alerts.yml has no expression")
	}
	for _, e := range expressions {
		if strings.HasPrefix(e[1], `up{job="surmise-coordinator"} == 0`) { // Prometheus' own, of a scrape that failed
			continue
		}
		exported.check(t, "alerts.yml", e[1])
	}
}
