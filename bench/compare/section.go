package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/surmise-ml/surmise/internal/durable"
)

const (
	begin = "<!-- measured: begin -->"
	end   = "<!-- measured: end -->"
)

// replaceSection writes text between the markers of a file.
func replaceSection(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: want a line %q and after it a line %q", path, begin, end)
	}
	return durable.WriteBytes(path, 0o644, []byte(before+begin+"\n\n"+strings.TrimSpace(text)+"\n\n"+end+after))
}

// group is all runs of one work, preset and precision, by contender and in the order of the rounds.
type group struct {
	work, preset, precision string
	runs                    map[string][]*result
}

// groupsOf keeps the order in which they were measured.
func groupsOf(records []record) []*group {
	var groups []*group
	for _, r := range records {
		if r.Result == nil {
			continue
		}
		at := slices.IndexFunc(groups, func(g *group) bool {
			return g.work == r.Work && g.preset == r.Result.Preset && g.precision == r.Result.Precision
		})
		if at < 0 {
			at = len(groups)
			groups = append(groups, &group{r.Work, r.Result.Preset, r.Result.Precision, map[string][]*result{}})
		}
		groups[at].runs[r.Contender] = append(groups[at].runs[r.Contender], r.Result)
	}
	return groups
}

// Contenders.
const (
	ours      = "surmise"
	published = "torch published"
	same      = "torch same"
)

// values of one figure over a contender's runs; empty if it has none.
func (g *group) values(contender string, figure func(*result) float64) []float64 {
	var out []float64
	for _, r := range g.runs[contender] {
		if v := figure(r); v != 0 {
			out = append(out, v)
		}
	}
	return out
}

func seconds(r *result) float64 { return r.seconds() }
func memory(r *result) float64  { return r.PeakRSS / 1e6 } // MB
func gflops(r *result) float64  { return r.GFLOPS }

// section is the measured part of the document.
func section(records []record) (string, error) {
	at := slices.IndexFunc(records, func(r record) bool { return r.Machine != nil })
	groups := groupsOf(records)
	if at < 0 || len(groups) == 0 {
		return "", errors.New("nothing was measured")
	}
	var b strings.Builder
	heading(&b, records[at].Machine, records, groups)
	trained := slices.DeleteFunc(slices.Clone(groups), func(g *group) bool { return g.work != train })
	scored := slices.DeleteFunc(slices.Clone(groups), func(g *group) bool { return g.work != score })
	if len(trained) > 0 {
		training(&b, trained)
	}
	if len(scored) > 0 {
		scoring(&b, scored)
	}
	if len(trained) > 0 {
		efficiency(&b, trained)
		operations(&b, trained)
	}
	return b.String(), nil
}

func heading(b *strings.Builder, m *machine, records []record, groups []*group) {
	fmt.Fprintf(b, "`make bench` wrote this part on %s.\n\n", m.Date)
	fmt.Fprintf(b, "- Machine: %s.\n", m)
	fmt.Fprintf(b, "- Surmise %s, Go %s", m.Surmise, m.Go)
	for _, g := range groups {
		if runs := g.runs[ours]; len(runs) > 0 && runs[0].Kernels != "" {
			fmt.Fprintf(b, ", %s", runs[0].Kernels)
			break
		}
	}
	b.WriteString(".\n")
	torch := false
	for _, g := range groups {
		if runs := g.runs[published]; len(runs) > 0 {
			r := runs[0]
			fmt.Fprintf(b, "- PyTorch %s, %s, oneDNN %s, BLAS %s.\n", r.Torch, r.Capability, r.OneDNN, r.BLAS)
			torch = true
			break
		}
	}
	if !torch {
		b.WriteString("- No PyTorch: Surmise was timed alone.\n")
	}
	held := ""
	if m.Held != "" {
		held = fmt.Sprintf(", held to CPUs %s", m.Held)
	}
	fmt.Fprintf(b, "- %s each%s; %s of each side taken in turns, %s a run. Medians over the runs, smallest and largest in brackets.\n",
		count(m.Threads, "thread"), held, count(m.Rounds, "run"), count(m.Steps, "step"))
	var other []float64
	for _, r := range records {
		if r.Result != nil {
			other = append(other, r.Other)
		}
	}
	fmt.Fprintf(b, "- Load before the first run: %s. Processes that are not part of it, and the hypervisor, took %s %% of the machine's CPU time during a run.\n", cmp.Or(m.Load, "unknown"), spread(scale(other, 100)))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func training(b *strings.Builder, groups []*group) {
	b.WriteString("\n### Training\n\nSeconds a step. PyTorch as published cuts every mask to the shortest of its batch and so has less to do than Surmise; the\n" +
		"other column keeps all tokens, as Surmise does. A ratio is PyTorch's time over Surmise's: that of the medians, and in\nbrackets the range run by run.\n\n")
	rows := [][]string{{"preset (batch)", "precision", "Surmise", "PyTorch, published", "ratio", "PyTorch, all tokens", "ratio", "PyTorch's fastest way"}}
	for _, g := range groups {
		rows = append(rows, []string{
			g.title(), g.precision, spread(g.values(ours, seconds)), spread(g.values(published, seconds)), g.ratio(published),
			spread(g.values(same, seconds)), g.ratio(same), g.ways()})
	}
	table(b, rows)
}

func scoring(b *strings.Builder, groups []*group) {
	b.WriteString("\n### Scoring\n\nWindows a second of one video, at the context lengths given. PyTorch as published encodes the targets of a window once\n" +
		"for each context length; the other column once for all, as Surmise does. Ratios as above.\n\n")
	rows := [][]string{{"preset", "precision", "windows × contexts, frames", "Surmise", "PyTorch, published", "ratio", "PyTorch, targets once", "ratio", "PyTorch's fastest way", "memory, MB: Surmise", "PyTorch, targets once"}}
	rate := func(r *result) float64 { return r.WindowsPerSecond }
	for _, g := range groups {
		work := ""
		for _, c := range []string{published, ours} {
			if runs := g.runs[c]; len(runs) > 0 && len(runs[0].Contexts) > 0 {
				work = fmt.Sprintf("%d × %s", runs[0].Windows, strings.ReplaceAll(runs[0].Contexts.String(), ",", ", "))
				break
			}
		}
		rows = append(rows, []string{
			g.preset, g.precision, work, spread(g.values(ours, rate)), spread(g.values(published, rate)), g.ratio(published),
			spread(g.values(same, rate)), g.ratio(same), g.ways(), middle(g.values(ours, memory)), middle(g.values(same, memory))})
	}
	table(b, rows)
}

func efficiency(b *strings.Builder, groups []*group) {
	b.WriteString("\n### A training step against the machine\n\nGFLOP are those of the matrix products. Products alone is how fast each side multiplies matrices of the step's size, in\nthe same run; the share is the step's rate over it.\n\n")
	rows := [][]string{{"preset", "precision", "side", "GFLOP a step", "GFLOP/s", "products alone, GFLOP/s", "share", "waits for data", "clips/s", "peak memory, MB"}}
	names := map[string]string{ours: "Surmise", published: "PyTorch, published", same: "PyTorch, all tokens"}
	for _, g := range groups {
		for _, c := range []string{ours, published, same} {
			if len(g.runs[c]) == 0 {
				continue
			}
			wait := "–"
			var waits []float64
			for _, r := range g.runs[c] {
				if r.DataWaitShare != nil {
					waits = append(waits, *r.DataWaitShare)
				}
			}
			if len(waits) > 0 {
				wait = percent(median(waits))
			}
			shares := g.values(c, func(r *result) float64 {
				if r.RooflineShare == 0 && r.Products > 0 {
					return r.GFLOPS / r.Products
				}
				return r.RooflineShare
			})
			share := "–"
			if len(shares) > 0 {
				share = percent(median(shares))
			}
			rows = append(rows, []string{g.preset, g.precision, names[c],
				middle(g.values(c, func(r *result) float64 { return r.GFLOPPerStep })), spread(g.values(c, gflops)),
				spread(g.values(c, func(r *result) float64 { return cmp.Or(r.Roofline, r.Products) })), share, wait,
				middle(g.values(c, func(r *result) float64 { return r.ClipsPerSecond })), middle(g.values(c, memory)) + g.memoryRatio(c)})
		}
	}
	table(b, rows)
}

// memoryRatio is Surmise's memory over that of another side.
func (g *group) memoryRatio(contender string) string {
	a, b := g.values(ours, memory), g.values(contender, memory)
	if contender == ours || len(a) == 0 || len(b) == 0 {
		return ""
	}
	return fmt.Sprintf(" (Surmise %.2f of it)", median(a)/median(b))
}

// operations shows where Surmise's step spends its time, if its runs say.
func operations(b *strings.Builder, groups []*group) {
	const least = 0.01 // share; what is smaller everywhere is pooled
	header := []string{"operation"}
	shares, largest := map[string][]string{}, map[string]float64{}
	var columns []map[string]float64
	for _, g := range groups {
		collected := map[string][]float64{}
		for _, r := range g.runs[ours] {
			for _, o := range r.Operations {
				collected[o.Name] = append(collected[o.Name], o.Share)
			}
		}
		if len(collected) == 0 {
			continue
		}
		header = append(header, g.preset+" "+g.precision)
		column := map[string]float64{}
		for name, values := range collected {
			column[name] = median(values)
			largest[name] = max(largest[name], column[name])
		}
		columns = append(columns, column)
	}
	if len(columns) == 0 {
		return
	}
	var names []string
	for name := range largest {
		if largest[name] >= least {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(largest[b], largest[a]), cmp.Compare(a, b)) })
	for _, column := range columns {
		pooled := 0.0
		for name, share := range column {
			if largest[name] < least {
				pooled += share
			}
		}
		for _, name := range names {
			cell := "–"
			if share, ok := column[name]; ok {
				cell = percent(share)
			}
			shares[name] = append(shares[name], cell)
		}
		shares["others"] = append(shares["others"], percent(pooled))
	}
	rows := [][]string{header}
	for _, name := range append(names, "others") {
		rows = append(rows, append([]string{name}, shares[name]...))
	}
	b.WriteString("\n### Where Surmise's step spends its time\n\nShare of the threads' time, median over the runs.\n\n")
	table(b, rows)
}

// title is the preset with its batch.
func (g *group) title() string {
	if runs := g.runs[ours]; len(runs) > 0 && runs[0].Batch > 0 {
		return fmt.Sprintf("%s (%d)", g.preset, runs[0].Batch)
	}
	return g.preset
}

// ratio is a contender's time over Surmise's: of the medians, then the range over rounds.
func (g *group) ratio(contender string) string {
	a, b := g.values(ours, seconds), g.values(contender, seconds)
	if len(a) == 0 || len(b) == 0 {
		return "–"
	}
	var rounds []float64
	for i := range min(len(a), len(b)) {
		rounds = append(rounds, b[i]/a[i])
	}
	return fmt.Sprintf("**%.2f** [%.2f, %.2f]", median(b)/median(a), slices.Min(rounds), slices.Max(rounds))
}

// ways is how PyTorch did it: the fastest that was found.
func (g *group) ways() string {
	var out []string
	for _, c := range []string{published, same} {
		if runs := g.runs[c]; len(runs) > 0 {
			way := map[string]string{"sdpa": "fused attention", "plain": "plain attention"}[runs[0].Attention]
			if runs[0].Compile {
				way += ", compiled"
			}
			if !slices.Contains(out, way) {
				out = append(out, way)
			}
		}
	}
	return cmp.Or(strings.Join(out, "; "), "–")
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// spread is the median with the extremes, or a dash for no values.
func spread(values []float64) string {
	switch len(values) {
	case 0:
		return "–"
	case 1:
		return number(values[0])
	}
	return fmt.Sprintf("%s [%s, %s]", number(median(values)), number(slices.Min(values)), number(slices.Max(values)))
}

func middle(values []float64) string {
	if len(values) == 0 {
		return "–"
	}
	return number(median(values))
}

func scale(values []float64, by float64) []float64 {
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = v * by
	}
	return out
}

// number has three digits, or all before the point.
func number(v float64) string {
	switch {
	case v >= 1000:
		whole := strconv.Itoa(int(v + 0.5))
		return whole[:len(whole)-3] + "," + whole[len(whole)-3:] // tables hold nothing of a million
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1 || v == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

// table writes rows, the first of them the header.
func table(b *strings.Builder, rows [][]string) {
	for i, row := range rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(b, "|%s\n", strings.Repeat("---|", len(row)))
		}
	}
}
