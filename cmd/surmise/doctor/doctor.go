// Package doctor looks at a machine and says whether Surmise works on it, and what to do where it does not.
//
// What it asks of the machine goes through Probes, so that every answer can be tried without the machine that gives it.
package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"
)

// Status is how a check went.
type Status string

const (
	OK   Status = "ok"
	Warn Status = "warn" // works, but slower or with less than it could
	Fail Status = "fail" // something that people rely on will not work
)

// Check is one answer.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Value  string `json:"value"`            // what was found
	Remedy string `json:"remedy,omitempty"` // what to do; empty when Status is OK
}

// Options says what to look at.
type Options struct {
	DataDir string // folder of jobs and artifacts; it need not exist yet
	TempDir string // where the system keeps temporary files
	Server  string // host:port of a coordinator; "": none is asked
	WantGPU bool   // a GPU or its plugin was named, so that one is tried though the system shows none
}

// Probes ask the machine. All are required.
type Probes struct {
	Root fs.FS // the file system at "/": proc, sys and dev are read

	Features   func() string // instruction set and product library of the kernels
	Kernels    func() error  // what is wrong with the instruction set that was asked for
	Native     bool          // the kernels are native code
	NativeBF16 func() bool   // the processor multiplies bfloat16
	Cores      func() int    // cores that the process may run on, by its affinity
	Threads    func() int    // of them, those that a limit of the container leaves
	// Memory is what the process can still take, in bytes; ok is false where the system does not say.
	Memory func() (bytes int64, ok bool)

	// Space is what a file system has left for users, in bytes, at a folder that exists.
	Space func(folder string) (free int64, err error)
	// Write makes, syncs and removes a file in a folder that exists.
	Write func(folder string) error
	// Synced tells whether the kernel believes that its clock follows a time server.
	Synced func() (bool, error)
	// Command runs a program and returns what it printed.
	Command func(ctx context.Context, name string, args ...string) (string, error)
	// OpenGPU opens a GPU, in a process of its own: a plugin that does not suit the driver may end its process.
	OpenGPU func(ctx context.Context) (GPU, error)
	// Decode decodes Clip in a decoder process and returns the frames found.
	Decode func(ctx context.Context) (frames int, err error)
	// Ask asks a coordinator how it is.
	Ask func(ctx context.Context, server string) (Answer, error)
	Now func() time.Time
}

// Answer is what a coordinator said of itself.
type Answer struct {
	Serving  bool
	Time     time.Time // by its clock; zero when it is too old to say
	Asked    time.Time // by our clock, before the question
	Answered time.Time // by our clock, after the answer
}

// Examine makes all checks, in the order in which they are best put right.
func Examine(ctx context.Context, o Options, p Probes) []Check {
	checks := []Check{
		processor(p), bfloat16(p), threads(p), memory(p), hugePages(p),
		library(p, "OpenCV", "libopencv_core", "apt-get install libopencv-dev, or 'make setup' in the sources"),
		library(p, "FFmpeg", "libavcodec", "apt-get install ffmpeg libopencv-dev, or 'make setup' in the sources"),
		library(p, "oneDNN", "libdnnl", "apt-get install libdnnl-dev and build again; without it products run in the kernels' own code"),
		gpu(ctx, p), plugin(ctx, o, p),
		disk(p, "data folder", "--data-dir", o.DataDir, dataNeeds), disk(p, "temporary folder", "TMPDIR", o.TempDir, tempNeeds),
		clock(p), decoder(ctx, p),
	}
	if o.Server != "" {
		checks = append(checks, coordinator(ctx, o.Server, p)...)
	}
	return checks
}

// Failed counts the checks that failed.
func Failed(checks []Check) int {
	n := 0
	for _, c := range checks {
		if c.Status == Fail {
			n++
		}
	}
	return n
}

// WriteTable prints the checks for people: a line each, and below it what to do.
func WriteTable(w io.Writer, checks []Check) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range checks {
		fmt.Fprintf(table, "%s\t%s\t%s\n", c.Status, c.Name, oneLine(c.Value))
		if c.Remedy != "" {
			fmt.Fprintf(table, "\t\t→ %s\n", oneLine(c.Remedy))
		}
	}
	return table.Flush()
}

// WriteJSON prints a line of JSON per check.
func WriteJSON(w io.Writer, checks []Check) error {
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	for _, c := range checks {
		if err := lines.Encode(c); err != nil {
			return fmt.Errorf("writing the check %s: %w", c.Name, err)
		}
	}
	return nil
}

// oneLine keeps what other programs said from breaking the table.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
