// Command compare times Surmise beside PyTorch, training steps and scoring, in alternating runs on the same cores, and
// writes what it measured into docs/benchmarks.md, between the markers there. `make bench` runs it from the root of the
// repository; every flag can also come from the environment.
//
//	make bench
//	PYTHON='chroot DIR python3' PRESETS='nano tiny' ROUNDS=5 STEPS=10 make bench
//
// PYTHON is the interpreter that has PyTorch; without one Surmise is timed alone. On Debian 13 `apt-get install
// python3-torch libopenblas0-openmp` brings PyTorch 2.6. On Debian 12 the same works inside a folder made by
// `debootstrap trixie DIR`, with PYTHON='chroot DIR python3' and /proc mounted there. With g++, libpython3-dev and
// libtorch-dev beside it PyTorch can compile the networks, which is tried too where it works.
//
// Reading order: main.go measures, run.go starts the two sides, machine.go says on what, section.go writes it down.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// settings are the flags.
type settings struct {
	python     string
	surmise    string
	presets    []string
	precisions []string
	works      []string
	rounds     int
	steps      int
	threads    int
	cpus       string
	windows    int
	date       string
	doc        string
	record     string
	from       string
}

// Works.
const (
	train = "train"
	score = "score"
)

// record is one line of the file that keeps what was measured: the first the machine, the others one run each.
type record struct {
	Machine *machine `json:"machine,omitempty"`

	Work      string  `json:"work,omitempty"`
	Contender string  `json:"contender,omitempty"` // surmise, or PyTorch's way of doing the work
	Round     int     `json:"round,omitempty"`     // from 1
	Other     float64 `json:"other,omitempty"`     // share of the machine's CPU time that went elsewhere during the run
	Result    *result `json:"result,omitempty"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	var records []record
	if s.from != "" {
		records, err = readRecords(s.from)
	} else {
		records, err = measure(ctx, s)
	}
	if err != nil {
		return err
	}
	text, err := section(records)
	if err != nil {
		return err
	}
	if s.doc == "" {
		fmt.Print(text)
		return nil
	}
	return replaceSection(s.doc, text)
}

func parse(args []string) (settings, error) {
	var s settings
	var presets, precisions, works string
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.StringVar(&s.python, "python", env("PYTHON", "python3"), "interpreter that has PyTorch, with its arguments")
	flags.StringVar(&s.surmise, "surmise", "bin/surmise", "the binary to measure")
	flags.StringVar(&presets, "presets", env("PRESETS", "nano tiny small"), "what to measure, of nano, tiny and small")
	flags.StringVar(&precisions, "precisions", env("PRECISIONS", "fp32 bf16"), "of fp32 and bf16")
	flags.StringVar(&works, "works", env("WORKS", "train score"), "of train and score")
	flags.IntVar(&s.rounds, "rounds", envInt("ROUNDS", 5), "runs of each side, taken in turns")
	flags.IntVar(&s.steps, "steps", envInt("STEPS", 5), "steps that a run times")
	flags.IntVar(&s.threads, "threads", envInt("THREADS", runtime.NumCPU()), "threads of each side")
	flags.StringVar(&s.cpus, "cpus", env("CPUS", ""), "CPUs that both sides are held to, as taskset lists them; empty: all")
	flags.IntVar(&s.windows, "windows", envInt("WINDOWS", 0), "windows to score; 0: as surmise bench chooses")
	flags.StringVar(&s.date, "date", env("DATE", time.Now().Format(time.DateOnly)), "date to write down")
	flags.StringVar(&s.doc, "doc", env("DOC", "docs/benchmarks.md"), "file whose measured section is written; empty: print it")
	flags.StringVar(&s.record, "record", env("RECORD", "bin/bench.jsonl"), "file that keeps every run, one JSON object a line")
	flags.StringVar(&s.from, "from", "", "measure nothing: write the section from such a file")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	s.presets, s.precisions, s.works = strings.Fields(presets), strings.Fields(precisions), strings.Fields(works)
	for _, f := range []struct {
		name  string
		given []string
		known string
	}{
		{"presets", s.presets, "nano tiny small"}, {"precisions", s.precisions, "fp32 bf16"}, {"works", s.works, "train score"},
	} {
		for _, word := range f.given {
			if !strings.Contains(" "+f.known+" ", " "+word+" ") {
				return s, fmt.Errorf("-%s has %q, want words of %q", f.name, word, f.known)
			}
		}
	}
	if s.rounds < 1 || s.steps < 1 || s.threads < 1 || s.windows < 0 {
		return s, fmt.Errorf("rounds %d, steps %d, threads %d, windows %d: want at least 1 of each, and no less than 0 windows", s.rounds, s.steps, s.threads, s.windows)
	}
	return s, nil
}

func env(name, otherwise string) string {
	if v, ok := os.LookupEnv(name); ok {
		return v
	}
	return otherwise
}

// envInt is 0, which parse refuses where it means nothing, if the variable holds no number.
func envInt(name string, otherwise int) int {
	v, ok := os.LookupEnv(name)
	if !ok {
		return otherwise
	}
	n, _ := strconv.Atoi(v)
	return n
}

// measure runs everything that the settings ask for and keeps it in the record file.
func measure(ctx context.Context, s settings) ([]record, error) {
	if err := os.MkdirAll(filepath.Dir(s.record), 0o755); err != nil {
		return nil, err
	}
	file, err := os.Create(s.record)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	m := &measurement{settings: s, out: io.MultiWriter(file, os.Stdout)}
	m.torch = m.hasTorch(ctx)
	if !m.torch {
		say("No PyTorch for %q: timing Surmise alone. The head of bench/compare/main.go says how to get PyTorch.", s.python)
	}
	here := thisMachine(ctx, s)
	here.Torch = m.torch
	if err := m.keep(record{Machine: here}); err != nil {
		return nil, err
	}
	for _, precision := range s.precisions {
		for _, work := range s.works {
			for _, preset := range s.presets {
				if err := m.compare(ctx, work, preset, precision); err != nil {
					return nil, fmt.Errorf("%s, %s, %s: %w", work, preset, precision, err)
				}
			}
		}
	}
	return m.records, file.Sync()
}

type measurement struct {
	settings
	torch      bool
	canCompile *bool // nil: not tried
	out        io.Writer
	records    []record
}

func (m *measurement) keep(r record) error {
	m.records = append(m.records, r)
	return json.NewEncoder(m.out).Encode(r)
}

// compare measures one work of one preset: one run to see what there is, then the rounds.
func (m *measurement) compare(ctx context.Context, work, preset, precision string) error {
	flags := surmiseFlags(m.settings, work, preset, precision)
	first, err := m.runSurmise(ctx, slices.Concat(flags, []string{"--steps", "1"}))
	var failed *failure
	if errors.As(err, &failed) && failed.isRefusal(work, precision) {
		say("%s, %s, %s left out: %s", work, preset, precision, failed.reason())
		return nil
	}
	if err != nil {
		return err
	}
	var others []contender
	if m.torch {
		if others, err = m.contenders(ctx, work, preset, precision, first); err != nil {
			return err
		}
	}
	steps := []string{"--steps", strconv.Itoa(m.steps)}
	for round := 1; round <= m.rounds; round++ {
		err := m.timed(record{Work: work, Contender: ours, Round: round}, func() (*result, error) {
			return m.runSurmise(ctx, slices.Concat(flags, steps))
		})
		if err != nil {
			return err
		}
		for _, c := range others {
			err := m.timed(record{Work: work, Contender: c.name, Round: round}, func() (*result, error) {
				return m.runTorch(ctx, c.script, slices.Concat(c.flags, steps))
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// timed keeps a run with what the rest of the machine did meanwhile.
func (m *measurement) timed(r record, work func() (*result, error)) error {
	before := cpuTimes()
	var err error
	if r.Result, err = work(); err != nil {
		return err
	}
	r.Other = cpuTimes().otherThan(before, r.Result.cpu)
	return m.keep(r)
}

// contender is one way in which PyTorch does a work.
type contender struct {
	name   string
	script string
	flags  []string
}

// contenders tries PyTorch's ways of doing a work and returns the fastest of each kind: as published, and doing no
// less and no more than Surmise does.
func (m *measurement) contenders(ctx context.Context, work, preset, precision string, first *result) ([]contender, error) {
	kinds := []contender{
		{name: published, script: "step.py", flags: []string{"--masks", "cut"}},
		{name: same, script: "step.py", flags: []string{"--masks", "whole"}},
	}
	if work == score {
		kinds = []contender{
			{name: published, script: "score.py"},
			{name: same, script: "score.py", flags: []string{"--tuned"}},
		}
	}
	ways := [][]string{{"--attention", "sdpa"}, {"--attention", "plain"}}
	if m.compiles(ctx) {
		ways = append(ways, []string{"--attention", "sdpa", "--compile"}, []string{"--attention", "plain", "--compile"})
	}
	for k := range kinds {
		c := &kinds[k]
		c.flags = append(c.flags, torchFlags(m.settings, work, preset, precision, first)...)
		var best *result
		var fastest []string
		for _, way := range ways {
			r, err := m.runTorch(ctx, c.script, slices.Concat(c.flags, way, []string{"--steps", "2"}))
			if err != nil {
				return nil, err
			}
			say("trial: %s %s %s %s: %.3f s", work, preset, c.name, strings.Join(way, " "), r.seconds())
			if best == nil || r.seconds() < best.seconds() {
				best, fastest = r, way
			}
		}
		c.flags = append(c.flags, fastest...)
		if work == score {
			c.flags = append(c.flags, "--batch", strconv.Itoa(best.Batch))
		}
	}
	return kinds, nil
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func readRecords(path string) ([]record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var records []record
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, len(records)+1, err)
		}
		records = append(records, r)
	}
	return records, lines.Err()
}
