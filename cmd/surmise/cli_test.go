package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/plausibility/compare"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
	"github.com/surmise-ml/surmise/video/synth"
)

// surmise runs the program in this process.
func surmise(t *testing.T, in string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(in), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

// ok runs the program and demands success.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errOut := surmise(t, "", args...)
	if code != exitOK {
		t.Fatalf("surmise %s: exit code %d\n%s", strings.Join(args, " "), code, errOut)
	}
	return out
}

// What is wrong is named, nothing is printed as a result, and the exit code says whose fault it is.
func TestBadInput(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"flat.json":    `{"data":["clips"]}`,
		"unknown.json": `{"train":{"data":["clips"],"stepz":3}}`,
		"empty.json":   ``,
		"neither.json": `{}`,
		"both.json":    `{"train":{"data":["a"]},"score":{"pairs":"p","model":"m"}}`,
		"score.json":   `{"score":{"pairs":"p.csv","model":"m"}}`,
		"shape.json":   `{"train":{"data":["clips"],"model":{"size":60,"patch":8}}}`,
		"steps.json":   `{"train":{"data":["clips"],"steps":-1}}`,
		"list.json":    `[1]`,
		"fp16.json":    `{"train":{"data":["clips"],"precision":"fp16"}}`,
		"threads.json": `{"train":{"data":["clips"],"threads":1024}}`,
		"missing.json": `{"train":{"data":["no-such-folder"]}}`,
		"mask.json":    `{"train":{"data":["clips"],"mask":{"kind":"causal","contextTubelets":[8]}}}`,
		"scores.json":  `{"version":99}`,
		"pairs.csv":    "path,label\n",
		"notes.txt":    "no video\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	nobody := "127.0.0.1:" + freePort(t)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string // a regular expression for all of standard error
	}{
		{[]string{"nonsense"}, 2, `Error: unknown command "nonsense" for "surmise"\nRun 'surmise --help' for usage.\n`},
		{[]string{"inspekt", "x"}, 2, `Error: unknown command "inspekt" for "surmise"; did you mean inspect\?\nRun .*\n`},
		{[]string{"train", "clips"}, 2, `Error: surmise train takes no arguments, got "clips": .*\nRun .*\n`},
		{[]string{"watch", "sweeps/abc"}, 2, `Error: sweeps/abc is a sweep: 'surmise sweep sweeps/abc' shows its jobs, .*\nRun .*\n`},
		{[]string{"job", "foo/bar"}, 2, `Error: job "foo/bar": want jobs/ID, as 'surmise jobs' lists them\nRun .*\n`},
		{[]string{"compare", "jobs/abc", "--coordinator", "127.0.0.1:1"}, 1, `Error: .*127.0.0.1:1.*\n`},
		{[]string{"compare", "jobs/abc", "--published"}, 2, `Error: --published and --plot take files: .*\n`},
		{[]string{"compare", "jobs/abc", "--reference", "s.json"}, 2, `Error: --reference: want a job of the same coordinator, jobs/ID, as the scores are\n`},
		{[]string{"compare", "jobs/abc", "pairs.csv"}, 2, `Error: pairs.csv is a file, and others are jobs of a coordinator: .*\n`},
		{[]string{"score", "--model", "jobs/abc", "--pairs", "pairs.csv", "--out", "s.json"}, 2, `Error: --model jobs/abc: a coordinator knows it; .*\n`},
		{[]string{"score", "--model", ".", "--pairs", "pairs.csv", "--out", "."}, 2, `Error: --out \.: it is a folder; name a file in it\n`},
		{[]string{"coordinator", "--listen", "7433", "--data-dir", "state"}, 2, `Error: --listen 7433: .*; want HOST:PORT\n`},
		{[]string{"worker", "--gpus", "two"}, 2, `Error: invalid argument "two" for "--gpus" flag: invalid syntax\nRun .*\n`},
		{[]string{"compare"}, 2, `Error: surmise compare takes one score file, or scoring job, or more, got none\nRun .*\n`},
		{[]string{"token", "create", "--role", "viewer", "--owner", "o", "--expires", "ninety days"}, 2, `Error: .*--expires.*\nRun .*\n`},
		{[]string{"token", "create", "--role", "viewer", "--owner", "o", "--expires", "xd"}, 2, `Error: .*want a number of days, as in 90d\nRun .*\n`},
		{[]string{"token", "create", "--role", "viewer", "--owner", "o", "--expires", "-2d"}, 2, `Error: --expires -48h0m0s: want more than 0\n`},
		{[]string{"token", "create", "--role", "viewer", "--owner", "o", "--expires", "-1h"}, 2, `Error: --expires -1h0m0s: want more than 0\n`},
		{[]string{"jobs", "--coordinator", "http://lab:7433"}, 2, `Error: --coordinator "http://lab:7433": want HOST:PORT, without http://; .*\n`},
		{[]string{"submit", "--train", "a\xffb"}, 2, `Error: --train "a\\xffb": is not UTF-8, and no job can hold it: .*\n`},
		{[]string{"coordinator", "--data-dir", "state", "--listen", "127.0.0.1:0", "--launcher-config", "nope.json"}, 2, `Error: --launcher-config nope.json needs --launcher\n`},
		{[]string{"coordinator", "--data-dir", "state", "--listen", "127.0.0.1:0", "--max-message-bytes", "10"}, 2, `Error: --max-message-bytes 10: want at least 262144, .*\n`},
		{[]string{"coordinator", "--data-dir", "st\xff", "--listen", "127.0.0.1:0"}, 2, `Error: --data-dir "st\\xff" is not UTF-8\n`},
		{[]string{"submit", "--train", ".", "--init", ""}, 2, `Error: --init "": .*\n`},
		{[]string{"worker", "--data-dir", "w", "--label", "a=\xff"}, 2, `Error: --label "a=\\xff": is not UTF-8\n`},
		{[]string{"jobs", "--bogus"}, 2, `Error: unknown flag: --bogus\nRun 'surmise jobs --help' for usage.\n`},
		{[]string{"job"}, 2, `Error: surmise job takes one job, as 'surmise jobs' lists them, got 0 arguments\nRun 'surmise job --help' for usage.\n`},
		{[]string{"submit"}, 2, `Error: one of --file, --train, --score, --videos is needed\nRun .*\n`},
		{[]string{"submit", "--score", "p.csv"}, 2, `Error: --score and --videos need --model\n`},
		{[]string{"submit", "--videos", "clips", "--train", "clips", "--model", "jobs/a"}, 2, `Error: .* exclude each other\nRun .*\n`},
		{[]string{"score", "--model", ".", "--videos", "nope.mp4", "--out", "s.json"}, 3, `Error: --videos: "nope.mp4": no such file or folder: .*\n`},
		{[]string{"score", "--model", ".", "--videos", "notes.txt", "--pairs", "pairs.csv", "--out", "s.json"}, 2, `Error: --pairs and --videos exclude each other\nRun .*\n`},
		{[]string{"score", "--model", ".", "--videos", "notes.txt", "--recolour", "--out", "s.json"}, 2, `Error: --recolour: must be false with --videos: .*\n`},
		{[]string{"compare", "scores.json", "--published", "--reference", "scores.json"}, 2, `Error: --published and --reference exclude each other\nRun .*\n`},
		{[]string{"--log-level", "loud", "version"}, 2, `Error: --log-level "loud": want debug, info, warn or error\nRun .*\n`},
		{[]string{"submit", "-f", "nope.json"}, 2, `Error: job file: open nope.json: no such file or directory\n`},
		{[]string{"submit", "-f", "flat.json"}, 2, `Error: job file flat.json: \(line 1:2\): unknown field "data"; a job is {"train": {…}}, {"score": .*\n`},
		{[]string{"submit", "-f", "unknown.json"}, 2, `Error: job file unknown.json: train: no field "stepz"; it has data, steps, .*\n`},
		{[]string{"submit", "-f", "both.json"}, 2, `Error: job file both.json: \(line 1:25\): error parsing "score", oneof .*\n`},
		{[]string{"submit", "-f", "list.json"}, 2, `Error: job file list.json: syntax error \(line 1:1\): unexpected token \[\n`},
		{[]string{"train", "-f", "empty.json"}, 2, `Error: job file empty.json: it is empty\n`},
		{[]string{"train", "-f", "neither.json"}, 2, `Error: job file neither.json: it says no kind; a job is {"train": {…}}, .*\n`},
		{[]string{"train", "-f", "score.json"}, 2, `Error: job file score.json: not a training job; score .* 'surmise score'\n`},
		{[]string{"train", "-f", "shape.json"}, 2, `Error: train.model.size: must be a multiple of patch 8, got 60\n`},
		{[]string{"train", "-f", "steps.json"}, 2, `Error: train.steps: .*, got -1\n`},
		{[]string{"train", "-f", "mask.json"}, 2, `Error: train.mask.context_tubelets\[0\]: must be below the clip.s 8 tubelets, or there is no target, got 8\n`},
		{[]string{"train", "-f", "fp16.json"}, 2, `Error: train.precision: must be in list \[auto, fp32, bf16, tf32\], got fp16\n`},
		{[]string{"train", "-f", "threads.json"}, 3, `Error: train.threads is 1024, want 1 to [0-9]+, the cores that this process may use, or 0 for all of them\n`},
		{[]string{"score", "--model", ".", "--pairs", "pairs.csv", "--out", "s.json", "--precision", "BF16"}, 2, `Error: --precision: must be in list .*, got BF16\n`},
		{[]string{"score", "--model", ".", "--pairs", "pairs.csv", "--out", "s.json", "--threads", "1024"}, 3, `Error: --threads is 1024, want 1 to .*\n`},
		{[]string{"submit", "-f", "score.json", "--precision", "fp32"}, 2, `Error: --file and --precision exclude each other\nRun .*\n`},
		{[]string{"bench", "--precision", "fp16"}, 2, `Error: --precision: precision is "fp16", want auto, fp32 or bf16\n`},
		{[]string{"bench", "--threads", "4294967297"}, 2, `Error: --threads: threads is 4294967297, want 1 to [0-9]+, the cores .*\n`},
		{[]string{"bench", "--score", "--threads", "-1"}, 2, `Error: --threads: threads is -1, want 1 to .*\n`},
		{[]string{"bench", "--steps", "0"}, 2, `Error: --steps 0: want at least 1\n`},
		{[]string{"bench", "--windows", "4"}, 2, `Error: --windows goes with --score\n`},
		{[]string{"bench", "--score", "--windows", "0"}, 2, `Error: --windows 0: want 1 to 1000\n`},
		{[]string{"bench", "--preset", "huge"}, 2, `Error: train.preset: .*, got huge\n`},
		{[]string{"train", "-f", "missing.json"}, 3, `Error: train.data\[0\]: "no-such-folder": no such file or folder: ".*no-such-folder"\n`},
		{[]string{"score", "--model", "nope", "--pairs", "pairs.csv", "--out", "s.json"}, 2, `Error: --model: stat nope: no such file or directory\n`},
		{[]string{"score", "--model", ".", "--pairs", "nope.csv", "--out", "s.json"}, 2, `Error: --pairs: stat nope.csv: no such file or directory\n`},
		{[]string{"score", "--model", ".", "--pairs", "pairs.csv", "--out", "no/s.json"}, 2, `Error: --out: stat no: no such file or directory\n`},
		{[]string{"score", "--model", ".", "--pairs", "pairs.csv", "--out", "s.json"}, 3, `Error: --pairs: pairs file pairs.csv: .*\n`},
		{[]string{"score"}, 2, `Error: required flag\(s\) "model", "out" not set\nRun .*\n`},
		{[]string{"score", "--model", ".", "--pairs", "pairs.csv", "--out", "/proc/s.json"}, 2, `Error: --out: .*/proc/.*\n`},
		{[]string{"compare", "s.json", "--plot", "s.jpg"}, 2, `Error: --plot s.jpg: want a name that ends in .png or .svg\n`},
		{[]string{"report", "s.json", "--out", "r", "--pairs", "-1"}, 2, `Error: --pairs is -1, want 0 or more\n`},
		{[]string{"score", "--model", ".", "--out", "s.json"}, 2, `Error: one of --pairs, --dataset, --videos is needed\nRun .*\n`},
		{[]string{"score", "--model", ".", "--dataset", "grasp", "--out", "s.json"}, 2, `Error: --dataset and --root go together, and --root is missing\nRun .*\n`},
		{[]string{"score", "--model", ".", "--dataset", "grasp", "--root", "nope", "--out", "s.json"}, 2, `Error: --root: stat nope: no such file or directory\n`},
		{[]string{"score", "--model", ".", "--dataset", "grasp", "--root", ".", "--out", "s.json"}, 3, `Error: --root: dataset grasp in .*: not laid out like it: want folders P_Collision, .*\n`},
		{[]string{"score", "--model", ".", "--dataset", "grips", "--root", ".", "--out", "s.json"}, 2, `Error: --dataset: must be in list .*, got grips\n`},
		{[]string{"score", "--model", ".", "--pairs", "pairs.csv", "--dataset", "grasp", "--root", ".", "--out", "s.json"}, 2, `Error: --dataset and --pairs exclude each other\nRun .*\n`},
		{[]string{"score", "--model", ".", "--pairs", "pairs.csv", "--out", "s.json", "--protocol", "grasp", "--frame-step", "3"}, 2, `Error: --frame-step: is settled by --protocol grasp and must be left empty\n`},
		{[]string{"compare", "nope.json"}, 2, `Error: .*nope.json.*no such file or directory\n`},
		{[]string{"compare", "scores.json"}, 2, `Error: .*scores.json.*score file of another version.*\n`},
		{[]string{"compare", "scores.json", "scores.json", "--published"}, 2, `Error: --published: 2 score files, want one\n`},
		{[]string{"compare", "scores.json", "--published", "--seed", "1"}, 2, `Error: --published and --seed exclude each other\nRun .*\n`},
		{[]string{"compare", "scores.json", "--measure", "best"}, 2, `Error: --measure: aggregation: "best", want one of avg.*\n`},
		{[]string{"inspect", "nope.mp4"}, 2, `Error: 1 of 1 names could not be inspected; the first: "nope.mp4": no such file or folder: ".*"\n`},
		{[]string{"synth", "--out", "made", "--size", "7"}, 2, `Error: .*7.*\n`},
		{[]string{"synth", "--out", "made", "--difficulty", "unfair"}, 2, `Error: synth: difficulty is "unfair": must be one of easy, middle, hard\n`},
		{[]string{"jobs", "--state", "LOST"}, 2, `Error: --state "LOST": want one of QUEUED, LEASED, .*\n`},
		{[]string{"jobs", "--coordinator", nobody}, 1, `Error: listing jobs: no coordinator answers at ` + nobody + ` \(start one with 'surmise up', .*\n`},
		{[]string{"watch", "x", "--coordinator", nobody}, 1, `Error: no coordinator answers at ` + nobody + ` .*\n`},
		{[]string{"worker", "--data-root", "nope"}, 2, `Error: --data-root "nope": stat ` + here + `/nope: no such file or directory\n`},
		{[]string{"worker", "--data-root", "notes.txt"}, 2, `Error: --data-root "notes.txt": not a folder\n`},
		{[]string{"worker", "--fetch-scheme", "ftp", "--data-dir", "w"}, 2, `Error: --fetch-scheme "ftp": .*\n`},
		{[]string{"worker", "--fetch-host", "http://x", "--data-dir", "w"}, 2, `Error: --fetch-host "http://x": .*\n`},
		{[]string{"worker", "--fetch-network", "169.254.0.0/16", "--data-dir", "w"}, 2, `Error: --fetch-network "169.254.0.0/16": .*\n`},
		{[]string{"inspect", "--fetch-network", "10.0.0.1", "clips"}, 2, `Error: --fetch-network "10.0.0.1": .*\n`},
		{[]string{"coordinator", "--listen", "0.0.0.0:0", "--data-dir", "state"}, 2, `Error: listening on .*: would be open to the network: .*\n`},
		{[]string{"up", "--listen", "0.0.0.0:0", "--data-dir", "state"}, 2, `Error: listening on .*: would be open to the network: .*\n`},
		{[]string{"up", "--tls-cert", "c.pem", "--data-dir", "state"}, 2, `Error: --tls-cert "c.pem" goes with --tls-key, got ""\n`},
		{[]string{"up", "--max-priority", "guest=1", "--data-dir", "state"}, 2, `Error: --max-priority guest=1: role "guest": want .*\n`},
		{[]string{"up", "--gpus", "-1", "--listen", "127.0.0.1:0", "--data-dir", "up"}, 2, `Error: --gpus "-1": want 0 to 1024\n`},
		{[]string{"up", "--data-root", "/nowhere", "--listen", "127.0.0.1:0", "--data-dir", "up"}, 2, `Error: --data-root "/nowhere": .*\n`},
		{[]string{"doctor", "--coordinator", "a:1", "--server", "b:1"}, 2, `Error: --coordinator and --server exclude each other\nRun .*\n`},
		{[]string{"token", "create", "--owner", "ann"}, 2, `Error: required flag\(s\) "role" not set\nRun .*\n`},
		{[]string{"token", "create", "--owner", "ann", "--role", "guest"}, 2, `Error: role "guest": want .*\n`},
		{[]string{"token", "create", "--owner", "-", "--role", "viewer"}, 2, `Error: owner "-": want .*\n`},
		{[]string{"token", "create", "--owner", "ann", "--role", "viewer", "--expires", "-1h"}, 2, `Error: .*\n`},
		{[]string{"token", "list", "--file", "notes.txt"}, 2, `Error: .*notes.txt.*\n`},
		{[]string{"token", "revoke"}, 2, `Error: surmise token revoke takes the id of one token, as 'surmise token list' shows it, got 0 arguments\nRun .*\n`},
		{[]string{"up", "--listen", "no-such-host.invalid:1"}, 1, `(?s).*Error: listening on no-such-host.invalid:1: .*\n`},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			code, out, errOut := surmise(t, "", c.args...)
			if code != c.code || !regexp.MustCompile("^"+c.want+"$").MatchString(errOut) {
				t.Errorf("exit code %d, want %d\n got: %s\nwant: %s", code, c.code, errOut, c.want)
			}
			if out != "" && c.args[0] != "inspect" && !strings.HasPrefix(out, "coordinator listens on ") {
				t.Errorf("standard output: %s", out)
			}
		})
	}
	for _, left := range []string{"s.json", "made", "state", "tokens.json"} {
		if _, err := os.Stat(left); err == nil {
			t.Errorf("%s was left behind", left)
		}
	}
}

// freePort is a port on which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestHelpStatesTheExitCodes(t *testing.T) {
	help := ok(t, "--help")
	for _, want := range []string{"0  done", "1  failed", "2  wrong usage", "3  the job failed"} {
		if !strings.Contains(help, want) {
			t.Errorf("help lacks %q", want)
		}
	}
}

func TestCompletionAndVersion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if script := ok(t, "completion", shell); !strings.Contains(script, "surmise") {
			t.Errorf("no completion for %s", shell)
		}
	}
	if states := ok(t, "__complete", "jobs", "--state", ""); !strings.HasPrefix(states, "QUEUED\n") {
		t.Errorf("completion of --state: %s", states)
	}
	var version map[string]string
	if err := json.Unmarshal([]byte(ok(t, "version", "--json")), &version); err != nil || version["version"] == "" {
		t.Errorf("version %v (%v)", version, err)
	}
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	made, err := synth.Generate(t.Context(), synth.Options{Dir: dir, Clips: 2, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(made.ClipsDir, "broken.mp4"), []byte("no video"), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(ok(t, "inspect", "--json", made.ClipsDir)), "\n")
	usable := 0
	for _, line := range lines {
		var v struct {
			Path, Reason string
			Usable       *bool
			Frames       int
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil || v.Usable == nil || v.Path == "" || *v.Usable == (v.Reason != "") {
			t.Fatalf("line %s: %v", line, err)
		}
		if *v.Usable {
			usable++
			if v.Frames != 16 {
				t.Errorf("%s has %d frames, want 16", v.Path, v.Frames)
			}
		}
	}
	if len(lines) != 3 || usable != 2 {
		t.Errorf("%d lines, %d usable; want 3 and 2", len(lines), usable)
	}
	if code, _, shown := surmise(t, "", "inspect", made.ClipsDir); code != exitOK || shown != "3 videos, 2 usable, 1 unusable (1 unreadable)\n" {
		t.Errorf("exit code %d, %q", code, shown)
	}
	if text := ok(t, "inspect", made.ClipsDir); strings.Count(text, "\n") != 4 || !strings.HasPrefix(text, "VERDICT") || !strings.Contains(text, "unusable  ") {
		t.Errorf("inspect prints\n%s", text)
	}
}

const tinyModel = `"model":{"size":32,"frames":8,"dim":16,"depth":1,"heads":1,"predDim":16,"predDepth":1,"predHeads":1}`

// service is `surmise up` in this process.
type service struct {
	address string
	stop    context.CancelFunc
	code    chan int
	log     *bytes.Buffer
}

func startUp(t *testing.T, args ...string) *service {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	out, stdout := io.Pipe()
	s := &service{stop: stop, code: make(chan int, 1), log: &bytes.Buffer{}}
	go func() {
		s.code <- run(ctx, append([]string{"up", "--listen", "127.0.0.1:0"}, args...), strings.NewReader(""), stdout, s.log)
		stdout.Close()
	}()
	line := make([]byte, 256)
	n, err := out.Read(line) // the line that says where it listens
	if err != nil {
		t.Fatalf("surmise up ended with %d: %s", <-s.code, s.log)
	}
	s.address = strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "coordinator listens on "))
	t.Cleanup(func() { s.end(t) })
	return s
}

// end stops the service as SIGTERM does.
func (s *service) end(t *testing.T) {
	t.Helper()
	s.stop()
	select {
	case code := <-s.code:
		s.code <- code
		if code != exitOK {
			t.Errorf("surmise up ended with %d:\n%s", code, s.log)
		}
	case <-time.After(30 * time.Second):
		t.Error("surmise up did not stop")
	}
}

// The whole path in one process over real gRPC: train, score, compare; then a restart, which loses nothing.
func TestUp(t *testing.T) {
	dir := t.TempDir()
	made, err := synth.Generate(t.Context(), synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 4, Pairs: 4, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "state")
	up := startUp(t, "--data-dir", state, "--data-root", dir)
	to := "--coordinator=" + up.address

	job := filepath.Join(dir, "job.json")
	text := fmt.Sprintf(`{"train":{"data":[%q],"steps":8,"batch":2,"logEvery":1,"checkpointEvery":4,%s},"displayName":"tiny"}`, made.ClipsDir, tinyModel)
	if err := os.WriteFile(job, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, shown := surmise(t, "", "submit", to, "-f", job, "--watch", "--request-id", "once")
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, shown)
	}
	trained := strings.TrimSpace(out)
	for _, want := range []string{trained + " submitted", "given to worker ", "checkpoint at step 8: ", trained + " SUCCEEDED"} {
		if !strings.Contains(shown, want) {
			t.Errorf("watching shows no %q:\n%s", want, shown)
		}
	}
	if again := ok(t, "submit", to, "-f", job, "--request-id", "once"); strings.TrimSpace(again) != trained {
		t.Errorf("the same request made %s beside %s", again, trained)
	}

	if shown := ok(t, "submit", to, "--train", made.ClipsDir, "--precision", "fp32", "--validate-only"); !strings.Contains(shown, `"precision":"fp32"`) {
		t.Errorf("a job in fp32 would be\n%s", shown)
	}
	if code, _, shown := surmise(t, "", "submit", to, "--score", made.PairsCSV, "--model", trained, "--precision", "fp16"); code != exitUsage || !strings.Contains(shown, "score.precision: must be in list") {
		t.Errorf("an unknown precision: exit code %d\n%s", code, shown)
	}

	scored := strings.TrimSpace(ok(t, "submit", to, "--score", made.PairsCSV, "--model", trained, "--wait"))
	var shownJob struct {
		State  string
		Result struct {
			Artifacts []struct{ Name, Path, Sha256 string }
			Metrics   map[string]float64
		}
		Spec struct {
			Score struct{ Stride int }
		}
	}
	if err := json.Unmarshal([]byte(ok(t, "job", to, "--json", scored)), &shownJob); err != nil {
		t.Fatal(err)
	}
	if shownJob.State != "SUCCEEDED" || len(shownJob.Result.Artifacts) != 1 || shownJob.Spec.Score.Stride != 2 {
		t.Fatalf("scoring job %+v", shownJob)
	}
	if text := ok(t, "job", to, strings.TrimPrefix(trained, "jobs/")); !strings.Contains(text, "artifact model") || !strings.Contains(text, "display name  ") || !strings.Contains(text, "trains on") {
		t.Errorf("job prints\n%s", text)
	}
	if rows := ok(t, "jobs", to); strings.Count(rows, "\n") != 3 || !strings.HasPrefix(rows, "NAME ") {
		t.Errorf("jobs prints\n%s", rows)
	}
	if lines := ok(t, "jobs", to, "--json", "--state", "succeeded", "--limit", "1"); strings.Count(lines, "\n") != 1 || !strings.Contains(lines, scored) {
		t.Errorf("jobs --limit 1 --json prints\n%s", lines)
	}
	if events := ok(t, "watch", to, "--json", trained); !strings.Contains(events, `"type":"JOB_ENDED"`) || !json.Valid([]byte(strings.SplitN(events, "\n", 2)[0])) {
		t.Errorf("watch --json prints\n%s", events)
	}

	// The same scores without a coordinator.
	modelPath := artifactPath(t, to, trained, "model")
	local := filepath.Join(dir, "local.json")
	if table := ok(t, "score", "--model", modelPath, "--pairs", made.PairsCSV, "--out", local); !strings.Contains(table, "untrained twin") {
		t.Errorf("score prints\n%s", table)
	}
	a, b := load(t, shownJob.Result.Artifacts[0].Path), load(t, local)
	for i := range a.Sets[0].Scores {
		if got, want := b.Sets[0].Scores[i].Surprise[0][0], a.Sets[0].Scores[i].Surprise[0][0]; got != want {
			t.Errorf("video %d: surprise %g here, %g at the worker", i, got, want)
		}
	}
	if here, there := ok(t, "compare", shownJob.Result.Artifacts[0].Path), ok(t, "compare", to, scored); here != there {
		t.Errorf("compared here\n%s\nby the coordinator\n%s", here, there)
	}
	if here, there := ok(t, "compare", "--videos", shownJob.Result.Artifacts[0].Path), ok(t, "compare", to, "--videos", scored); here != there || !strings.Contains(here, "label, property") {
		t.Errorf("videos here\n%s\nby the coordinator\n%s", here, there)
	}
	if answer := ok(t, "compare", to, "--json", "--videos", scored); !strings.Contains(answer, `"videos":[`) {
		t.Errorf("compare --json --videos of a job: %s", answer)
	}
	picture := filepath.Join(dir, "plot.png")
	var table compare.Table
	if err := json.Unmarshal([]byte(ok(t, "compare", "--json", "--plot", picture, local, shownJob.Result.Artifacts[0].Path)), &table); err != nil || len(table.Columns) != 2 {
		t.Errorf("compare --json: %v, columns %v", err, table.Columns)
	}
	// The same weights twice are no two trainings; trainings of one name share a column; every video is listed.
	if code, _, shown := surmise(t, "", "compare", "m="+local, "m="+shownJob.Result.Artifacts[0].Path); code != exitUsage || !strings.Contains(shown, "files 1 and 2 are scores of the same weights") {
		t.Errorf("exit code %d\n%s", code, shown)
	}
	again := load(t, local)
	again.Sets[0].Model.SHA256 = strings.Repeat("0", 64)
	again.Sets[0].Scores[0].Surprise[0][0] += 0.001 // the same scores would be the same weights
	second := filepath.Join(dir, "second.json")
	if err := again.Save(second); err != nil {
		t.Fatal(err)
	}
	listed := ok(t, "compare", "--videos", "m="+local, "m="+second, "other="+second)
	for _, want := range []string{"m ×2, ties", "other ×1, ties", "m, each training: ", filepath.Base(again.Videos[0].Path), "McNemar, pairs"} {
		if !strings.Contains(listed, want) {
			t.Errorf("compare of trainings does not say %q:\n%s", want, listed)
		}
	}
	if png, err := os.ReadFile(picture); err != nil || !bytes.HasPrefix(png, []byte("\x89PNG")) {
		t.Errorf("no picture: %v", err)
	}

	checkReportsAndRanks(t, to, made, trained, modelPath)
	checkSweepScores(t, to, made)

	// A job that is cancelled; its watcher's exit code says so.
	long := strings.Replace(text, `"steps":8`, `"steps":1000000`, 1)
	code, out, shown = surmise(t, long, "submit", to, "-f", "-")
	if code != exitOK {
		t.Fatal(shown)
	}
	cancelled := strings.TrimSpace(out)
	client, err := connect(dial.Options{Address: up.address})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	waitFor(t, client, cancelled, surmisev1.JobEventType_JOB_CHECKPOINTED)
	ok(t, "cancel", to, cancelled)
	if code, _, shown := surmise(t, "", "watch", to, cancelled); code != exitJob || !strings.Contains(shown, "was cancelled") {
		t.Errorf("watching a cancelled job: exit code %d\n%s", code, shown)
	}

	// A job that must fail says why, and the worker lives.
	code, _, shown = surmise(t, "", "submit", to, "--train", "/etc", "--wait")
	if code != exitJob || !strings.Contains(shown, "outside the folders that may be read") {
		t.Errorf("a job outside the data roots: exit code %d\n%s", code, shown)
	}
	code, _, shown = surmise(t, "", "submit", to, "--score", made.PairsCSV, "--model", "jobs/nope")
	if code != exitUsage || !strings.Contains(shown, "score.model: there is no job jobs/nope") {
		t.Errorf("scoring with no model: exit code %d\n%s", code, shown)
	}
	if code, _, shown := surmise(t, "", "cancel", to, trained); code != exitUsage {
		t.Errorf("cancelling what has succeeded: exit code %d\n%s", code, shown)
	}

	// Stopped in the middle of a job, and started again: the job goes on from its checkpoint.
	code, out, shown = surmise(t, strings.Replace(text, `"steps":8`, `"steps":400`, 1), "submit", to, "-f", "-")
	if code != exitOK {
		t.Fatal(shown)
	}
	resumed := strings.TrimSpace(out)
	waitFor(t, client, resumed, surmisev1.JobEventType_JOB_CHECKPOINTED)
	up.end(t)
	up = startUp(t, "--data-dir", state, "--data-root", dir)
	to = "--coordinator=" + up.address
	code, _, shown = surmise(t, "", "watch", to, resumed)
	if code != exitOK || !strings.Contains(shown, "queued again: handed back: the worker is stopping") || !strings.Contains(shown, "(attempt 2)") {
		t.Errorf("after a restart: exit code %d\n%s", code, shown)
	}
	if strings.Count(shown, "checkpoint at step 4:") != 1 {
		t.Errorf("the job began anew:\n%s", shown)
	}
}

// waitFor follows a job up to an event.
func waitFor(t *testing.T, client *jobsClient, name string, want surmisev1.JobEventType) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := client.WatchJob(ctx, &surmisev1.WatchJobRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	for {
		e, err := stream.Recv()
		if err != nil {
			t.Fatalf("%s ended without %s: %v", name, want, err)
		}
		if e.Type == want {
			return
		}
	}
}

func artifactPath(t *testing.T, to, job, name string) string {
	t.Helper()
	var shown struct {
		Result struct{ Artifacts []struct{ Name, Path string } }
	}
	if err := json.Unmarshal([]byte(ok(t, "job", to, "--json", job)), &shown); err != nil {
		t.Fatal(err)
	}
	for _, a := range shown.Result.Artifacts {
		if a.Name == name {
			return a.Path
		}
	}
	t.Fatalf("%s has no artifact %s", job, name)
	return ""
}

func load(t *testing.T, path string) *compare.File {
	t.Helper()
	f, err := compare.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A run in this process that is interrupted goes on from where it was.
func TestTrainHere(t *testing.T) {
	dir := t.TempDir()
	made, err := synth.Generate(t.Context(), synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 4, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	job := fmt.Sprintf(`{"train":{"data":[%q],"steps":6,"batch":2,"checkpointEvery":3,%s}}`, made.ClipsDir, tinyModel)
	runDir := filepath.Join(dir, "run")
	ctx, interrupt := context.WithCancel(t.Context())
	var out bytes.Buffer
	var said bytes.Buffer
	atCheckpoint := writerFunc(func(p []byte) (int, error) {
		said.Write(p)
		if bytes.Contains(p, []byte("checkpoint at step 3")) {
			interrupt()
		}
		return len(p), nil
	})
	if code := run(ctx, []string{"train", "-f", "-", "--out", runDir}, strings.NewReader(job), &out, atCheckpoint); code != exitFailed || !strings.Contains(said.String(), "was interrupted; the same command goes on") {
		t.Fatalf("an interrupted run: exit code %d\n%s", code, &said)
	}
	code, path, shown := surmise(t, job, "train", "-f", "-", "--out", runDir)
	if code != exitOK || strings.Contains(shown, "checkpoint at step 3") {
		t.Fatalf("exit code %d\n%s", code, shown)
	}
	if filepath.Base(strings.TrimSpace(path)) != "step-00000006" {
		t.Errorf("printed %q, want the last checkpoint", path)
	}
	other := strings.Replace(job, `"batch":2`, `"batch":3`, 1)
	if code, _, shown := surmise(t, other, "train", "-f", "-", "--out", runDir); code != exitJob || !strings.Contains(shown, "batch 2, this run has 3") {
		t.Errorf("another job in the same folder: exit code %d\n%s", code, shown)
	}
}

// The names in bench's JSON are what scripts read.
func TestBench(t *testing.T) {
	for _, c := range []struct {
		args  []string
		names []string
	}{
		{[]string{"--preset", "nano", "--precision", "fp32"}, []string{"preset", "precision", "threads", "batch", "kernels", "steps", "clips_per_s", "step_s",
			"step_p95_s", "gflop_per_step", "gflops_per_s", "roofline_gflops", "roofline_share", "data_wait_share", "machine_bytes", "peak_rss_bytes"}},
		{[]string{"--score", "--preset", "nano", "--windows", "2"}, []string{"preset", "precision", "threads", "kernels", "windows", "contexts", "windows_per_s",
			"score_s", "gflops_per_s", "peak_rss_bytes"}},
	} {
		args := append([]string{"bench", "--steps", "1", "--threads", "1"}, c.args...)
		var got map[string]any
		if err := json.Unmarshal([]byte(ok(t, append(args, "--json")...)), &got); err != nil {
			t.Fatal(err)
		}
		for _, name := range c.names {
			if _, there := got[name]; !there {
				t.Errorf("bench %s: no %s in %v", c.args, name, got)
			}
		}
		if p := got["precision"]; p != "fp32" && p != "bf16" {
			t.Errorf("bench %s: precision %v, want what was run", c.args, p)
		}
		if text := ok(t, args...); !strings.HasPrefix(text, "nano, ") || strings.Count(text, "\n") != 3 {
			t.Errorf("bench %s prints\n%s", c.args, text)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestJobsTable(t *testing.T) {
	now := time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	train := &surmisev1.JobSpec{Kind: &surmisev1.JobSpec_Train{Train: &surmisev1.TrainSpec{}}}
	score := &surmisev1.JobSpec{Kind: &surmisev1.JobSpec_Score{Score: &surmisev1.ScoreSpec{}}}
	var got strings.Builder
	err := writeJobs(&got, []*surmisev1.Job{
		{Name: "jobs/c", Spec: score, State: surmisev1.JobState_QUEUED, QueuePosition: 2, Reason: "waiting for the only worker, which is busy", CreateTime: ago(30 * time.Second)},
		{Name: "jobs/b", Spec: train, State: surmisev1.JobState_RUNNING, Worker: "w", DisplayName: "the long one", CreateTime: ago(3 * time.Minute),
			Progress: &surmisev1.Progress{Phase: "training", Step: 10, Steps: 600, Loss: 0.25, Eta: durationpb.New(90 * time.Second)}},
		{Name: "jobs/a", Spec: train, State: surmisev1.JobState_FAILED, Reason: "3 of 4 files cannot be used:\n  a.mp4", CreateTime: ago(72 * time.Hour),
			LastCheckpoint: &surmisev1.Checkpoint{Step: 8000}},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	const want = `NAME    KIND   STATE    PROGRESS                     AGE  WORKER  NOTE
jobs/c  score  QUEUED   -                            30s  -       place 2: waiting for the only worker, which is busy
jobs/b  train  RUNNING  training 10/600 loss 0.2500  3m   w       the long one: eta 1m30s
jobs/a  train  FAILED   checkpoint 8000              3d   -       3 of 4 files cannot be used: …
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &got, want)
	}
}

// Off a terminal a phase takes a bounded number of lines, whatever the number of videos.
func TestLinesOfAPhase(t *testing.T) {
	var got strings.Builder
	view := newProgressView(&got)
	for n := range int32(1000) {
		view.update(&surmisev1.Progress{Phase: "indexing", Step: n + 1, Steps: 1000})
	}
	for _, step := range []int32{1, 10, 20} {
		view.update(&surmisev1.Progress{Phase: "training", Step: step, Steps: 100000})
	}
	for n := range int32(3) {
		view.update(&surmisev1.Progress{Phase: "scoring", Step: n + 1, Steps: 3})
	}
	view.update(&surmisev1.Progress{Phase: "scoring", Step: 1, Steps: 3}) // another attempt
	view.close()
	if n := strings.Count(got.String(), "indexing "); n > linesPerPhase+1 || n < linesPerPhase-1 {
		t.Errorf("%d lines of indexing, want about %d", n, linesPerPhase)
	}
	for _, want := range []string{"indexing 1/1000\n", "indexing 1000/1000\n", "training 1/", "training 10/", "training 20/",
		"scoring 1/3\nscoring 2/3\nscoring 3/3\nscoring 1/3\n"} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("no %q in\n%s", want, &got)
		}
	}
}

// Who stops watching is told that the job goes on; any other error stays what it is.
func TestWatchThatIsStoppedLeavesTheJob(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	broken := errors.New("broken")
	if err := leftAlone(ctx, "jobs/a", broken); !errors.Is(err, broken) {
		t.Errorf("while it is watched: %v", err)
	}
	stop()
	if err := leftAlone(ctx, "jobs/a", context.Canceled); err == nil || !strings.Contains(err.Error(), "jobs/a goes on ('surmise cancel jobs/a' ends it)") {
		t.Errorf("stopped: %v", err)
	}
	if err := leftAlone(ctx, "jobs/a", nil); err != nil {
		t.Errorf("stopped when the job was over: %v", err)
	}
}

// Watching a job that waits says why, and what changes, once.
func TestWatchSaysWhyAJobWaits(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	listening := make(chan net.Addr, 1)
	served := make(chan error, 1)
	go func() {
		served <- coordinatorcmd.Run(ctx, coordinatorcmd.Options{Listen: "127.0.0.1:0", DataDir: dir, LeaseDuration: time.Minute,
			Logger: slog.New(slog.DiscardHandler), Serving: func(a net.Addr) { listening <- a }})
	}()
	client, err := connect(dial.Options{Address: (<-listening).String()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	job, err := client.SubmitJob(ctx, &surmisev1.SubmitJobRequest{Spec: &surmisev1.SubmitJobRequest_Train{Train: &surmisev1.TrainSpec{Data: []string{"clips"}}}})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 16)
	ended := make(chan error, 1)
	go func() {
		ended <- watch(ctx, client, job.Name, false, io.Discard, writerFunc(func(p []byte) (int, error) {
			told <- string(p)
			return len(p), nil
		}))
	}()
	for _, want := range []string{job.Name + " submitted\n", "place 1 in the queue; waiting: no worker is attached\n"} {
		select {
		case got := <-told:
			if got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("never told %q", want)
		}
	}
	if _, err := client.CancelJob(ctx, &surmisev1.CancelJobRequest{Name: job.Name}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "was cancelled") {
		t.Errorf("watch ended with %v", err)
	}
	if got := <-told; !strings.Contains(got, "CANCELLED") {
		t.Errorf("told %q, want the end and nothing before it", got)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestFigures(t *testing.T) {
	got := figures(&surmisev1.Progress{Phase: "training", Step: 20, Steps: 600, Loss: 0.4321, ClipsPerSecond: 12.34, Eta: durationpb.New(80 * time.Second),
		EffectiveRank: 23.44, FeatureStd: 0.98, Cosine: 0.123, DataWaitShare: 0.25, Videos: 8, UnusableVideos: 2})
	const want = "  loss 0.4321  12.3 clips/s  eta 1m20s  rank 23.4 std 0.980 cos 0.123  waits for data 25 %  2 of 10 videos unusable"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// lines passes on what is written, a line each.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		l <- line
	}
	return len(p), nil
}

// with waits for a line that holds a text.
func (l lines) with(t *testing.T, text string) string {
	t.Helper()
	for late := time.After(30 * time.Second); ; {
		select {
		case line := <-l:
			if strings.Contains(line, text) {
				return line
			}
		case <-late:
			t.Fatalf("no line says %q", text)
		}
	}
}

// A worker that takes the name of the one inside `up` costs that one: the coordinator goes on for all others.
func TestUpOutlivesItsWorker(t *testing.T) {
	log, code := make(lines, 1000), make(chan int, 1)
	ctx, stop := context.WithCancel(t.Context())
	out, stdout := io.Pipe()
	go func() {
		code <- run(ctx, []string{"up", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(t.TempDir(), "state")}, strings.NewReader(""), stdout, log)
		stdout.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSpace(strings.TrimPrefix(line, "coordinator listens on "))
	name := regexp.MustCompile(`worker=(\S+)`).FindStringSubmatch(log.with(t, `msg="worker attached"`))[1]

	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	newcomer, err := surmisev1.NewWorkerServiceClient(conn).Attach(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := newcomer.Send(&surmisev1.AttachRequest{Message: &surmisev1.AttachRequest_Hello{Hello: &surmisev1.Hello{Name: name}}}); err != nil {
		t.Fatal(err)
	}
	log.with(t, "the worker in here serves no more jobs")
	ok(t, "jobs", "--coordinator="+address)
	stop()
	if got := <-code; got != exitOK {
		t.Errorf("it ended with %d", got)
	}
}

// A worker that is never taken is a fault of how `up` was started, which must not look as if it served.
func TestUpEndsWhenItsWorkerIsNotTaken(t *testing.T) {
	dir := t.TempDir()
	args := []string{"up", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "state")}
	for range 1001 { // one more than the coordinator takes
		args = append(args, "--data-root", dir)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	if code := run(ctx, args, strings.NewReader(""), io.Discard, io.Discard); code == 0 || ctx.Err() != nil {
		t.Errorf("exit code %d, %v", code, ctx.Err())
	}
}
