// Command statistics sets statistics of surprise beside one another on score files that hold maps: how often each
// finds the impossible video of a pair, by property, for the model and for its untrained twin. It trains and scores
// nothing. The tables of docs/experiments.md come from it.
//
//	surmise score --model MODEL --pairs PAIRS.csv --maps --out scores.json
//	go run ./bench/statistics scores.json [more.json…]
//
// Choosing a statistic by these tables makes the pairs they were made of unfit to report the choice on.
//
// Reading order: main.go reads and prints, statistic.go is what is compared.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/surmise-ml/surmise/plausibility/compare"
	"github.com/surmise-ml/surmise/plausibility/heat"
)

func main() {
	resamples := flag.Int("resamples", 1000, "of the bootstrap over groups")
	only := flag.String("only", "", "print only statistics whose name has this in it")
	flag.Parse()
	if err := run(os.Stdout, flag.Args(), *only, *resamples); err != nil {
		fmt.Fprintln(os.Stderr, "statistics:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, paths []string, only string, resamples int) error {
	if len(paths) == 0 {
		return fmt.Errorf("no score file named")
	}
	for _, path := range paths {
		f, err := compare.Load(path)
		if err != nil {
			return err
		}
		maps, err := heat.Load(filepath.Dir(path), f)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if maps.Videos() != len(f.Videos) {
			return fmt.Errorf("%s: maps of %d videos, the file has %d", path, maps.Videos(), len(f.Videos))
		}
		fmt.Fprintf(w, "%s: pairwise accuracy, %% [95 %% interval over groups] / untrained twin\n\n", path)
		if err := table(w, f, maps, only, resamples); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// table prints a line per statistic: pooled rows with intervals, then properties.
func table(w io.Writer, f *compare.File, maps *heat.Maps, only string, resamples int) error {
	lines := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	header := true
	for _, s := range statistics() {
		if !strings.Contains(s.name, only) {
			continue
		}
		judged, err := judge(f, maps, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		t, err := compare.Summarize(judged, compare.Options{Aggregation: compare.Aggregation{Name: "peak"}, Resamples: resamples})
		if err != nil {
			return err
		}
		var names, cells []string
		for _, pooled := range []bool{true, false} {
			for _, r := range t.Rows {
				if r.Pooled != pooled {
					continue
				}
				a := r.Cells[0].Accuracy
				cell := fmt.Sprintf("%.1f", 100*a.Value)
				if pooled {
					cell += fmt.Sprintf(" [%.1f, %.1f]", 100*a.Low, 100*a.High)
				}
				for _, twin := range r.Cells[1:] {
					cell += fmt.Sprintf(" / %.1f", 100*twin.Accuracy.Value)
				}
				names, cells = append(names, r.Name), append(cells, cell)
			}
		}
		if header {
			fmt.Fprintf(lines, "statistic\t%s\n", strings.Join(names, "\t"))
			header = false
		}
		fmt.Fprintf(lines, "%s\t%s\n", s.name, strings.Join(cells, "\t"))
	}
	fmt.Fprintln(lines)
	return lines.Flush()
}
