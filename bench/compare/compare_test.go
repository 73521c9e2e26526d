package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseResultReadsWhatIsThere(t *testing.T) {
	r, err := parseResult([]byte("a warning\n" + `{"preset":"nano","precision":"fp32","batch":16,"step_s":0.5,"roofline_gflops":190,"peak_rss_bytes":310000000}` + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Preset != "nano" || r.seconds() != 0.5 || r.Roofline != 190 || r.DataWaitShare != nil || r.Operations != nil {
		t.Errorf("read %+v", r)
	}
	r, err = parseResult([]byte(`{"step_s":1,"roofline_gflops":200,"data_wait_share":0,"operations":[{"name":"Linear","share":0.6,"seconds":0.3}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if r.Roofline != 200 || r.DataWaitShare == nil || len(r.Operations) != 1 || r.Operations[0].Share != 0.6 {
		t.Errorf("read %+v", r)
	}
	for _, contexts := range []string{"[4,8,12]", "3"} {
		r, err = parseResult([]byte(`{"score_s":2,"windows":64,"windows_per_s":32,"contexts":` + contexts + `}`))
		if err != nil {
			t.Fatal(err)
		}
		flags := strings.Join(torchFlags(settings{threads: 2}, score, "nano", "fp32", r), " ")
		want := "--preset nano --precision fp32 --threads 2 --windows 64"
		if contexts[0] == '[' {
			want += " --contexts 4,8,12"
		}
		if r.seconds() != 2 || flags != want {
			t.Errorf("contexts %s: %v s, flags %q, want %q", contexts, r.seconds(), flags, want)
		}
	}
}

func TestParseResultRefusesOtherOutput(t *testing.T) {
	for _, output := range []string{"", "Killed", `{"preset":"nano"}`, `{"step_s":"fast"}`, `{"step_s":1,"contexts":["a"]}`} {
		if r, err := parseResult([]byte(output)); err == nil {
			t.Errorf("%q was read as %+v", output, r)
		}
	}
}

func TestWhatIsLeftOut(t *testing.T) {
	lacks := &failure{stderr: "\nsurmise: precision is \"bf16\", which takes a processor with AVX512_BF16 or AMX\n"}
	if !lacks.isRefusal(train, "bf16") || lacks.isRefusal(train, "fp32") {
		t.Error("a processor without bf16 should leave out bf16, and nothing else")
	}
	if !strings.HasPrefix(lacks.reason(), "surmise: precision") {
		t.Errorf("reason is %q", lacks.reason())
	}
	if old := (&failure{stderr: "unknown flag: --score"}); !old.isRefusal(score, "fp32") || old.isRefusal(train, "fp32") {
		t.Error("a binary without --score should leave out scoring, and nothing else")
	}
}

// A run in which everything is known.
func madeUp() []record {
	wait := 0.02
	records := []record{{Machine: &machine{Date: "2026-01-02", CPU: "Example 9000", Cores: 2, CPUs: 4, Sets: []string{"AVX2", "FMA"},
		Memory: 24e9, System: "Debian", Go: "1.26", Surmise: "v1", Torch: true, Threads: 2, Rounds: 3, Steps: 5, Load: "0.01, 0.02, 0.03"}}}
	for i, s := range []float64{0.5, 0.4, 0.6} {
		add := func(work, contender string, other float64, r result) {
			r.Preset, r.Precision = "nano", "fp32"
			records = append(records, record{Work: work, Contender: contender, Round: i + 1, Other: other, Result: &r})
		}
		add(train, ours, 0.01, result{Batch: 16, StepSeconds: s, ClipsPerSecond: 16 / s, GFLOPPerStep: 48, GFLOPS: 48 / s, Roofline: 200,
			RooflineShare: 48 / s / 200, PeakRSS: 300e6, DataWaitShare: &wait, Kernels: "AVX2+FMA kernels",
			Operations: []operation{{"Linear", 0.6, 0.3}, {"Attention", 0.394, 0.2}, {"Clip", 0.006, 0.003}}})
		add(train, published, 0.03, result{StepSeconds: 0.6, Attention: "sdpa", GFLOPPerStep: 34, GFLOPS: 34 / 0.6, Products: 100, PeakRSS: 600e6,
			Torch: "2.6.0", OneDNN: "3.7", Capability: "AVX2", BLAS: "libopenblas"})
		add(train, same, 0.02, result{StepSeconds: 0.9, Attention: "plain", Compile: true, PeakRSS: 600e6})
		add(score, ours, 0.02, result{ScoreSeconds: 2 * s, Windows: 64, WindowsPerSecond: 32 / s, Contexts: contexts{4, 8, 12}, PeakRSS: 100e6})
	}
	return records
}

func TestSection(t *testing.T) {
	text, err := section(madeUp())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"on 2026-01-02",
		"Example 9000, 2 cores with 4 threads, AVX2 FMA; 24 GB memory; Debian",
		"PyTorch 2.6.0, AVX2, oneDNN 3.7, BLAS libopenblas",
		"2 threads each; 3 runs of each side taken in turns, 5 steps a run",
		"took 2.00 [1.00, 3.00] %",
		"| nano (16) | fp32 | 0.50 [0.40, 0.60] | 0.60 [0.60, 0.60] | **1.20** [1.00, 1.50] | 0.90 [0.90, 0.90] | **1.80** [1.50, 2.25] | fused attention; plain attention, compiled |",
		"| nano | fp32 | 64 × 4, 8, 12 | 64.0 [53.3, 80.0] | – | – | – | – | – | 100 | – |",
		"| nano | fp32 | Surmise | 48.0 | 96.0 [80.0, 120] | 200 [200, 200] | 48 % | 2 % | 32.0 | 300 |",
		"| nano | fp32 | PyTorch, published | 34.0 | 56.7 [56.7, 56.7] | 100 [100, 100] | 57 % | – | – | 600 (Surmise 0.50 of it) |",
		"| Linear | 60 % |\n| Attention | 39 % |\n| others | 1 % |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	checkTables(t, text)
}

// Surmise alone gives the same tables with dashes.
func TestSectionWithoutTorch(t *testing.T) {
	var alone []record
	for _, r := range madeUp() {
		if r.Machine != nil || r.Contender == ours {
			alone = append(alone, r)
		}
	}
	text, err := section(alone)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"No PyTorch", "| nano (16) | fp32 | 0.50 [0.40, 0.60] | – | – | – | – | – |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	checkTables(t, text)
	if _, err := section(alone[:1]); err == nil {
		t.Error("a section without any run")
	}
}

// checkTables wants as many cells in every row as in the row above it.
func checkTables(t *testing.T, text string) {
	t.Helper()
	cells := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "|") {
			cells = 0
			continue
		}
		n := strings.Count(line, "|")
		if cells != 0 && n != cells {
			t.Errorf("%d bars after rows of %d: %s", n, cells, line)
		}
		cells = n
	}
}

func TestReplaceSection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "benchmarks.md")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# Title\n\n" + begin + "\nold\n" + end + "\n\nMore.\n")
	for range 2 { // the second time changes nothing
		if err := replaceSection(path, "\nnew\n"); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := "# Title\n\n" + begin + "\n\nnew\n\n" + end + "\n\nMore.\n"; string(got) != want {
			t.Errorf("wrote %q, want %q", got, want)
		}
	}
	for _, broken := range []string{"no markers", begin, end + begin} {
		write(broken)
		if err := replaceSection(path, "new"); err == nil || !strings.Contains(err.Error(), begin) {
			t.Errorf("%q: error %v, want one that names the marker", broken, err)
		}
	}
}

// The document in this repository has its markers.
func TestDocumentHasMarkers(t *testing.T) {
	text, err := os.ReadFile("../../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	if b, e := strings.Index(string(text), begin), strings.Index(string(text), end); b < 0 || e < b {
		t.Errorf("docs/benchmarks.md has its markers at %d and %d", b, e)
	}
}

func TestRecordsComeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.jsonl")
	var lines []string
	for _, r := range madeUp() {
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	read, err := readRecords(path)
	if err != nil {
		t.Fatal(err)
	}
	before, err := section(madeUp())
	if err != nil {
		t.Fatal(err)
	}
	if after, err := section(read); err != nil || after != before {
		t.Errorf("%v: after a file the section is\n%s\nand was\n%s", err, after, before)
	}
}

func TestMachine(t *testing.T) {
	var m machine
	m.readCPU("model name\t: Example 9000\nphysical id\t: 0\ncore id\t\t: 0\nflags\t\t: fpu avx2 fma amx_bf16 hypervisor\n\nphysical id\t: 0\ncore id\t\t: 0\n\nphysical id\t: 0\ncore id\t\t: 1\n")
	if m.CPU != "Example 9000" || m.Cores != 2 || !m.Virtual || strings.Join(m.Sets, " ") != "AVX2 FMA AMX_BF16" {
		t.Errorf("read %+v", m)
	}
	if got := memoryOf("MemFree: 1 kB\nMemTotal:       24683656 kB\n"); got != 24683656<<10 {
		t.Errorf("memory is %d", got)
	}
	if got := systemOf("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n", "6.1.0\n"); got != "Debian GNU/Linux 12, Linux 6.1.0" {
		t.Errorf("system is %q", got)
	}
}

func TestCPUTimeThatWentElsewhere(t *testing.T) {
	before := parseCPUTimes("cpu  100 0 0 100 0 0 0 0 0 0\ncpu0 1 1 1 1\n")
	after := parseCPUTimes("cpu  160 10 10 200 10 0 0 10 99 99\n") // 200 ticks more, of them 90 busy
	if got := after.otherThan(before, 500*time.Millisecond); got < 0.1999 || got > 0.2001 {
		t.Errorf("share is %v, want 40 of 200 ticks", got)
	}
	if got := before.otherThan(before, 0); got != 0 {
		t.Errorf("share of no time is %v", got)
	}
}

func TestNumbers(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.0123: "0.012", 0.532: "0.53", 12.34: "12.3", 765.4: "765", 2839.6: "2,840", 1007: "1,007"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median is %v", got)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-presets", "nano huge"}, {"-precisions", "fp16"}, {"-works", "sleep"}, {"-rounds", "0"}, {"-threads", "-1"}, {"-windows", "-1"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
	t.Setenv("PRESETS", "tiny")
	t.Setenv("ROUNDS", "many")
	if _, err := parse(nil); err == nil {
		t.Error("ROUNDS=many was taken")
	}
	if s, err := parse([]string{"-rounds", "2"}); err != nil || len(s.presets) != 1 || s.presets[0] != "tiny" {
		t.Errorf("%+v, %v", s, err)
	}
}

// What goes to Python's standard input is a program.
func TestPythonProgram(t *testing.T) {
	program, err := pythonProgram("../pytorch", "step.py")
	if err != nil {
		t.Fatal(err)
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 to parse it with")
	}
	cmd := exec.CommandContext(t.Context(), python, "-c", "import ast, sys; ast.parse(sys.stdin.read())")
	cmd.Stdin = strings.NewReader(string(program))
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, output)
	}
}
