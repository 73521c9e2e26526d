package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/surmise-ml/surmise/cmd/dial"
)

const (
	// memoryNeeds is what training the preset "small" takes at its default batch, with decoders; "demo" needs a fraction.
	memoryNeeds = 4 << 30
	// dataNeeds is room for some hundred checkpoints of a small model, event files and score files.
	dataNeeds = 10 << 30
	// tempNeeds is room for building, and for a report being drawn.
	tempNeeds = 1 << 30
	// full: below this nothing can be relied on.
	full = 200 << 20
	// skewWarns and skewFails bound how far the coordinator's clock may be off. Leases follow the coordinator's clock
	// alone, so what suffers first is the order of logs and traces; certificates and tokens fail at minutes.
	skewWarns = time.Second
	skewFails = 2 * time.Minute
	// ClipFrames are in Clip.
	ClipFrames = 8
)

func processor(p Probes) Check {
	c := Check{Name: "processor", Status: OK, Value: p.Features()}
	if err := p.Kernels(); err != nil {
		c.Status, c.Value, c.Remedy = Fail, err.Error(), "unset it, or name instructions that this processor has"
		return c
	}
	switch {
	case !p.Native:
		c.Status, c.Remedy = Warn, "this build has no native kernels; build with cgo and without the tag nonative"
	case !strings.Contains(strings.ToLower(c.Value), "avx"):
		c.Status, c.Remedy = Warn, "training is several times slower without AVX2; if this is a virtual machine, let it see the host's processor"
	}
	return c
}

func bfloat16(p Probes) Check {
	if p.NativeBF16() {
		return Check{Name: "bfloat16", Status: OK, Value: "native: precision auto means bf16"}
	}
	return Check{Name: "bfloat16", Status: OK, Value: "not native: precision auto means fp32"}
}

func threads(p Probes) Check {
	cores, threads := p.Cores(), p.Threads()
	c := Check{Name: "threads", Status: OK, Value: fmt.Sprintf("%d, on %d cores", threads, cores)}
	if threads < cores {
		c.Status = Warn
		c.Value = fmt.Sprintf("%d of %d cores", threads, cores)
		c.Remedy = "the CPU limit of the container, or GOMAXPROCS, leaves cores unused; raise it, or leave it so if they are others'"
	}
	return c
}

func memory(p Probes) Check {
	bytes, known := p.Memory()
	c := Check{Name: "memory", Status: OK, Value: size(bytes) + " available"}
	switch {
	case !known:
		c.Status, c.Value, c.Remedy = Warn, "the system does not say what is available", "mount /proc, or watch memory yourself"
	case bytes < full:
		c.Status, c.Remedy = Fail, "end other programs, or raise the memory limit of the container"
	case bytes < memoryNeeds:
		c.Status, c.Remedy = Warn, fmt.Sprintf("larger models want %s; lower batch or preset where a job says so", size(memoryNeeds))
	}
	return c
}

// hugePages: the machine asks for them for its arena; without them walks through memory miss the TLB.
func hugePages(p Probes) Check {
	const file = "sys/kernel/mm/transparent_hugepage/enabled"
	c := Check{Name: "huge pages", Status: OK}
	text, err := fs.ReadFile(p.Root, file)
	if err != nil {
		c.Value = "the system does not say"
		return c
	}
	chosen := regexp.MustCompile(`\[(\w+)\]`).FindStringSubmatch(string(text))
	if chosen == nil {
		c.Value = strings.TrimSpace(string(text))
		return c
	}
	if c.Value = chosen[1]; c.Value == "never" {
		c.Status, c.Remedy = Warn, "as root: echo madvise > /"+file
	}
	return c
}

// library finds a shared library among those that this process runs with.
func library(p Probes, name, file, remedy string) Check {
	maps, err := fs.ReadFile(p.Root, "proc/self/maps")
	if err != nil {
		return Check{Name: name, Status: Warn, Value: fmt.Sprintf("cannot tell: %v", err), Remedy: "mount /proc"}
	}
	for line := range strings.Lines(string(maps)) {
		at := strings.IndexByte(line, '/')
		if at < 0 {
			continue
		}
		loaded := strings.TrimSpace(line[at:])
		if base := path.Base(loaded); strings.HasPrefix(base, file+".so") || strings.HasPrefix(base, file+"-") {
			_, version, _ := strings.Cut(base, ".so.")
			return Check{Name: name, Status: OK, Value: strings.TrimSpace(version + " " + loaded)}
		}
	}
	return Check{Name: name, Status: Warn, Value: "not loaded as a shared library", Remedy: remedy}
}

// disk looks at the folder, or at the nearest one above it that exists.
func disk(p Probes, name, setting, folder string, needs int64) Check {
	c := Check{Name: name, Status: OK}
	at, err := filepath.Abs(folder)
	if err != nil {
		return Check{name, Fail, err.Error(), "name another folder with " + setting}
	}
	free, err := p.Space(at)
	for errors.Is(err, os.ErrNotExist) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
		free, err = p.Space(at)
	}
	if err != nil {
		return Check{name, Fail, fmt.Sprintf("%s: %v", at, err), "name another folder with " + setting}
	}
	c.Value = fmt.Sprintf("%s free at %s", size(free), at)
	if err := p.Write(at); errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return Check{name, Fail, fmt.Sprintf("%s: %v", at, err), "free space there, or name another folder with " + setting}
	} else if err != nil {
		return Check{name, Fail, fmt.Sprintf("%s: %v", at, err), "make it writable, or name another folder with " + setting}
	}
	switch {
	case free < full:
		c.Status, c.Remedy = Fail, "free some space, or name another folder with "+setting
	case free < needs:
		c.Status, c.Remedy = Warn, fmt.Sprintf("long runs want %s; checkpoints of ended jobs may be deleted", size(needs))
	}
	return c
}

func clock(p Probes) Check {
	c := Check{Name: "clock", Status: OK, Value: p.Now().UTC().Format(time.RFC3339)}
	synced, err := p.Synced()
	switch {
	case err != nil:
		c.Value += fmt.Sprintf("; the kernel does not say whether it follows a time server (%v)", err)
	case synced:
		c.Value += ", follows a time server"
	default:
		c.Status, c.Value = Warn, c.Value+", follows no time server"
		c.Remedy = "start one, such as chrony or systemd-timesyncd; logs and traces of several machines are compared by time"
	}
	return c
}

func decoder(ctx context.Context, p Probes) Check {
	frames, err := p.Decode(ctx)
	switch {
	case err != nil:
		return Check{"decoder", Fail, err.Error(), "videos cannot be read: check that this program may start itself, and that OpenCV has its FFmpeg backend (libopencv-videoio)"}
	case frames != ClipFrames:
		return Check{"decoder", Fail, fmt.Sprintf("%d frames of a clip that has %d", frames, ClipFrames), "OpenCV decodes wrongly; install the version of 'make setup'"}
	}
	return Check{Name: "decoder", Status: OK, Value: strconv.Itoa(frames) + " frames of the built-in clip (H.264)"}
}

func coordinator(ctx context.Context, server string, p Probes) []Check {
	const name = "coordinator"
	answer, err := p.Ask(ctx, server)
	if silent := (*dial.SilentError)(nil); errors.As(err, &silent) {
		return []Check{{name, Fail, fmt.Sprintf("nobody answers at %s: %v", server, silent.Err),
			"start it ('surmise up' or 'surmise coordinator'), and let the port through firewalls; it listens on loopback unless --listen says otherwise"}}
	}
	if err != nil {
		return []Check{{name, Fail, fmt.Sprintf("%s: %v", server, err), "give doctor the flags that other commands need to reach it; see docs/guides/security.md"}}
	}
	if !answer.Serving {
		return []Check{{name, Fail, server + " answers, but is not ready", "it is stopping, or its store fails: its log says more"}}
	}
	took := answer.Answered.Sub(answer.Asked)
	checks := []Check{{Name: name, Status: OK, Value: fmt.Sprintf("%s is ready, %v away", server, took.Round(10*time.Microsecond))}}
	if answer.Time.IsZero() {
		return append(checks, Check{"its clock", Warn, "it does not tell its time", "bring the coordinator to this program's version"})
	}
	// It read its clock somewhere between question and answer: half of that is the most the midpoint can be wrong.
	middle := answer.Asked.Add(took / 2)
	skew := answer.Time.Sub(middle)
	c := Check{Name: "its clock", Status: OK, Value: fmt.Sprintf("%+.3f s from ours, ±%.3f s", skew.Seconds(), (took / 2).Seconds())}
	switch off := max(0, skew.Abs()-took/2); {
	case off > skewFails:
		c.Status, c.Remedy = Fail, "let both machines follow a time server; certificates and tokens are refused at such a distance"
	case off > skewWarns:
		c.Status, c.Remedy = Warn, "let both machines follow a time server, to compare their logs and traces"
	}
	return append(checks, c)
}

// size is a number of bytes for people.
func size(bytes int64) string {
	if bytes < 1<<30 {
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
}
