package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result is what a run of either side prints, one JSON object. A field that a side does not print stays zero, and a
// pointer nil.
type result struct {
	Preset    string `json:"preset"`
	Precision string `json:"precision"`
	Threads   int    `json:"threads"`
	Batch     int    `json:"batch,omitempty"` // clips of a step, or windows at a time

	StepSeconds    float64 `json:"step_s,omitempty"` // median of the run
	ClipsPerSecond float64 `json:"clips_per_s,omitempty"`
	GFLOPPerStep   float64 `json:"gflop_per_step,omitempty"`
	GFLOPS         float64 `json:"gflops_per_s,omitempty"`
	PeakRSS        float64 `json:"peak_rss_bytes,omitempty"`

	ScoreSeconds     float64  `json:"score_s,omitempty"`
	Windows          int      `json:"windows,omitempty"`
	Contexts         contexts `json:"contexts,omitempty"`
	WindowsPerSecond float64  `json:"windows_per_s,omitempty"`

	// Surmise
	Kernels       string      `json:"kernels,omitempty"`
	Roofline      float64     `json:"roofline_gflops,omitempty"`
	RooflineShare float64     `json:"roofline_share,omitempty"`
	DataWaitShare *float64    `json:"data_wait_share,omitempty"`
	Operations    []operation `json:"operations,omitempty"`

	// PyTorch
	Attention  string  `json:"attention,omitempty"`
	Compile    bool    `json:"compile,omitempty"`
	Products   float64 `json:"products_gflops_per_s,omitempty"` // products alone
	Torch      string  `json:"torch,omitempty"`
	BLAS       string  `json:"blas,omitempty"`
	OneDNN     string  `json:"onednn,omitempty"`
	Capability string  `json:"capability,omitempty"`

	cpu time.Duration // that the process used
}

// operation is what one kind of operation takes of a step.
type operation struct {
	Name    string  `json:"name"`
	Share   float64 `json:"share"`
	Seconds float64 `json:"seconds"`
}

// contexts are context lengths in frames. A bare number, how many there are, is read as none: both sides then take
// their defaults.
type contexts []int

func (c *contexts) UnmarshalJSON(data []byte) error {
	var count float64
	if json.Unmarshal(data, &count) == nil {
		*c = nil
		return nil
	}
	return json.Unmarshal(data, (*[]int)(c))
}

func (c contexts) String() string {
	var words []string
	for _, frames := range c {
		words = append(words, strconv.Itoa(frames))
	}
	return strings.Join(words, ",")
}

// seconds of the work that was timed, one step or one video.
func (r *result) seconds() float64 {
	if r.ScoreSeconds > 0 {
		return r.ScoreSeconds
	}
	return r.StepSeconds
}

// parseResult reads the last line of a side's output.
func parseResult(output []byte) (*result, error) {
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	last := lines[len(lines)-1]
	var r result
	if err := json.Unmarshal([]byte(last), &r); err != nil {
		return nil, fmt.Errorf("its output %.200q: %w", last, err)
	}
	if r.seconds() <= 0 {
		return nil, fmt.Errorf("its output %.200q has neither step_s nor score_s", last)
	}
	return &r, nil
}

// failure is a side's run that ended badly.
type failure struct {
	command string
	err     error
	stderr  string
}

func (f *failure) Error() string { return fmt.Sprintf("%s: %v: %s", f.command, f.err, f.reason()) }
func (f *failure) Unwrap() error { return f.err }

// reason is the first line that says something.
func (f *failure) reason() string {
	for line := range strings.Lines(f.stderr) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return f.err.Error()
}

// isRefusal says whether Surmise cannot do this work at all, here: bf16 on a processor without it, or a binary from
// before there was scoring to measure.
func (f *failure) isRefusal(work, precision string) bool {
	return precision == "bf16" && strings.Contains(f.stderr, "precision") ||
		work == score && strings.Contains(f.stderr, "unknown flag: --score")
}

func surmiseFlags(s settings, work, preset, precision string) []string {
	flags := []string{"bench", "--preset", preset, "--precision", precision, "--threads", strconv.Itoa(s.threads), "--json"}
	if work == score {
		flags = append(flags, "--score")
		if s.windows > 0 {
			flags = append(flags, "--windows", strconv.Itoa(s.windows))
		}
	}
	return flags
}

// torchFlags asks for the work that Surmise's run says it did.
func torchFlags(s settings, work, preset, precision string, first *result) []string {
	flags := []string{"--preset", preset, "--precision", precision, "--threads", strconv.Itoa(s.threads)}
	if work == score {
		if first.Windows > 0 {
			flags = append(flags, "--windows", strconv.Itoa(first.Windows))
		}
		if len(first.Contexts) > 0 {
			flags = append(flags, "--contexts", first.Contexts.String())
		}
	}
	return flags
}

func (m *measurement) runSurmise(ctx context.Context, flags []string) (*result, error) {
	return m.start(ctx, []string{m.surmise}, flags, nil)
}

// torchEnvironment is what PyTorch needs from before its process starts; bench/pytorch/process.py says why.
var torchEnvironment = []string{
	"GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=18446744073709551615:glibc.malloc.hugetlb=1",
}

func (m *measurement) runTorch(ctx context.Context, script string, flags []string) (*result, error) {
	program, err := pythonProgram("bench/pytorch", script)
	if err != nil {
		return nil, err
	}
	return m.start(ctx, strings.Fields(m.python), append([]string{"-"}, flags...), program)
}

// pythonProgram is a script and the modules beside it as one text for Python's standard input: the interpreter may live
// in another root, where it does not see these files.
func pythonProgram(folder, script string) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("import sys, types\n")
	for _, name := range []string{"process", "jepa"} {
		text, err := os.ReadFile(filepath.Join(folder, name+".py"))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "m = sys.modules[%q] = types.ModuleType(%q)\nexec(compile(%s, '%s.py', 'exec'), m.__dict__)\n", name, name, pythonString(text), name)
	}
	text, err := os.ReadFile(filepath.Join(folder, script))
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&b, "exec(compile(%s, '%s', 'exec'))\n", pythonString(text), script)
	return b.Bytes(), nil
}

// pythonString is a literal: every JSON string is one in Python.
func pythonString(text []byte) []byte {
	quoted, err := json.Marshal(string(text))
	if err != nil {
		panic(err) // strings always marshal
	}
	return quoted
}

// start runs a side to its end and reads its result.
func (m *measurement) start(ctx context.Context, command, flags []string, input []byte) (*result, error) {
	if m.cpus != "" {
		command = append([]string{"taskset", "-c", m.cpus}, command...)
	}
	words := slices.Concat(command, flags)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdin = bytes.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if input != nil {
		cmd.Env = slices.Concat(os.Environ(), torchEnvironment, []string{"OMP_NUM_THREADS=" + strconv.Itoa(m.threads)})
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &failure{strings.Join(words, " "), err, stderr.String()}
	}
	r, err := parseResult(stdout.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(words, " "), err)
	}
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return r, nil
}

func (m *measurement) hasTorch(ctx context.Context) bool {
	words := strings.Fields(m.python)
	if len(words) == 0 {
		return false
	}
	return exec.CommandContext(ctx, words[0], append(words[1:], "-c", "import torch")...).Run() == nil
}

// compiles says whether PyTorch can compile networks here: it needs a C++ compiler and headers.
func (m *measurement) compiles(ctx context.Context) bool {
	if m.canCompile == nil {
		words := strings.Fields(m.python)
		ok := exec.CommandContext(ctx, words[0], append(words[1:], "-c", "import torch; torch.compile(lambda x: x.sin() + 1)(torch.ones(64))")...).Run() == nil
		m.canCompile = &ok
	}
	return *m.canCompile
}
