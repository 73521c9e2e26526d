package video

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gocv.io/x/gocv"
	"golang.org/x/sys/unix"

	"github.com/surmise-ml/surmise/video/source"
	"github.com/surmise-ml/surmise/video/wire"
)

// fakeArgument makes the test binary a decoder that goes wrong in the way the next argument names, at files whose
// names hold "bad"; others it answers with three black frames.
const fakeArgument = "fake-decoder"

func fakeIfAsked() {
	if len(os.Args) < 3 || os.Args[1] != fakeArgument {
		return
	}
	if err := fakeDecoder(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func fakeDecoder(fault string) error {
	requests, answers := wire.NewReader(os.NewFile(requestsFD, "requests")), os.NewFile(answersFD, "answers")
	memory, err := mapShared(os.NewFile(memoryFD, "memory"))
	if err != nil {
		return err
	}
	if fault == "never starts" {
		select {}
	}
	if fault == "cannot start" {
		return errors.New("no such library")
	}
	if err := wire.WriteJSON(answers, wire.KindHello, wire.Hello{Decoder: "fake"}); err != nil {
		return err
	}
	for {
		kind, body, err := requests.Next()
		if err != nil {
			return nil //nolint:nilerr // the parent has gone
		}
		if kind != wire.KindRequest {
			continue
		}
		var r wire.Request
		if err := wire.ParseJSON(body, &r); err != nil {
			return err
		}
		if err := wire.Write(answers, wire.KindBegun, nil); err != nil {
			return err
		}
		good := wire.Frames{Height: 2, Width: 2}
		for i := range 3 {
			good.Frames = append(good.Frames, wire.Frame{Number: i, Repeat: 1, Time: float64(i)})
		}
		if strings.Contains(r.Path, "bad") {
			// Some frames first, so that a reading that begins anew shows.
			if err := wire.Write(answers, wire.KindFrames, good.Append(nil)); err != nil {
				return err
			}
			if err := goWrong(fault, answers, memory); err != nil {
				return err
			}
		}
		if err := wire.Write(answers, wire.KindFrames, good.Append(nil)); err != nil {
			return err
		}
		if err := wire.WriteJSON(answers, wire.KindDone, wire.Done{Codec: "fake", Height: 2, Width: 2, Frames: 3}); err != nil {
			return err
		}
	}
}

func goWrong(fault string, answers *os.File, memory []byte) error {
	switch fault {
	case "segfault":
		_ = unix.Mprotect(memory, unix.PROT_NONE)
		memory[0]++
	case "abort":
		fmt.Fprintln(os.Stderr, "terminate called after throwing an instance of 'cv::Exception'")
		if err := syscall.Kill(os.Getpid(), syscall.SIGABRT); err != nil {
			return err
		}
		select {} // another thread may take the signal, a little later
	case "sleep":
		select {}
	case "talk":
		for {
			if err := wire.Write(answers, wire.KindPassed, nil); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	case "garbage":
		_, err := answers.WriteString(strings.Repeat("you would not believe this ", 100))
		return err
	case "long":
		_, err := answers.WriteString("SD\x01\x04\xff\xff\xff\xff")
		return err
	case "elsewhere": // frames beyond the memory
		return wire.Write(answers, wire.KindFrames, wire.Frames{Height: 2, Width: 2, Offset: uint64(len(memory)), Frames: []wire.Frame{{Number: 9, Repeat: 1, Time: 9}}}.Append(nil))
	case "backwards":
		return wire.Write(answers, wire.KindFrames, wire.Frames{Height: 2, Width: 2, Frames: []wire.Frame{{Number: 1, Repeat: 1, Time: 1}}}.Append(nil))
	case "unknown kind":
		return wire.WriteJSON(answers, wire.KindDone, wire.Done{FaultKind: "sunspots"})
	case "many frames":
		return wire.WriteJSON(answers, wire.KindDone, wire.Done{Frames: 1 << 40})
	case "exit":
		os.Exit(0)
	case "killed": // as the kernel does when memory is short
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return err
		}
		select {}
	case "no right":
		return wire.WriteJSON(answers, wire.KindDone, wire.Done{FaultKind: string(Unreadable), FaultText: "unreadable: permission denied", FaultErrno: int(syscall.EACCES)})
	case "disk gone":
		return wire.WriteJSON(answers, wire.KindDone, wire.Done{FaultKind: string(Unreadable), FaultText: "unreadable: input/output error", FaultErrno: int(syscall.EIO)})
	case "flood": // frames without end, and never a word read
		for n := 10; ; n++ {
			f := wire.Frames{Height: 2, Width: 2, Frames: []wire.Frame{{Number: n, Repeat: 1, Time: float64(n)}}}
			if err := wire.Write(answers, wire.KindFrames, f.Append(nil)); err != nil {
				return err
			}
		}
	case "grow":
		var hoard [][]byte
		for {
			block := make([]byte, 16<<20)
			for i := 0; i < len(block); i += 4096 {
				block[i] = 1
			}
			hoard = append(hoard, block)
			if len(hoard) > 64 {
				select {} // noticed by now, or never
			}
		}
	}
	return nil
}

func fakePool(t *testing.T, fault string, o PoolOptions) *Pool {
	t.Helper()
	o.Command = []string{"/proc/self/exe", fakeArgument, fault}
	p := NewPool(o)
	t.Cleanup(p.Close)
	return p
}

// Whatever a decoder does at a file, the file gets its verdict, the others theirs, and the process is replaced.
func TestPoolSurvivesItsDecoders(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, c := range []struct {
		fault string
		kind  Kind
		says  string
		count func(PoolStats) int64
		lost  int64 // processes: two where a fresh one tries again
	}{
		{"segfault", Crashed, "fault", func(s PoolStats) int64 { return s.Crashed }, 2},
		{"abort", Crashed, "cv::Exception", func(s PoolStats) int64 { return s.Crashed }, 2},
		{"exit", Crashed, "exit status 0", func(s PoolStats) int64 { return s.Crashed }, 2},
		{"sleep", TimedOut, "no word", func(s PoolStats) int64 { return s.TimedOut }, 1},
		{"talk", TimedOut, "not decoded in", func(s PoolStats) int64 { return s.TimedOut }, 1},
		{"garbage", Crashed, "not a message", func(s PoolStats) int64 { return s.Garbage }, 2},
		{"long", Crashed, "not a message", func(s PoolStats) int64 { return s.Garbage }, 2},
		{"elsewhere", Crashed, "not a message", func(s PoolStats) int64 { return s.Garbage }, 2},
		{"backwards", Crashed, "not a message", func(s PoolStats) int64 { return s.Garbage }, 2},
		{"unknown kind", Crashed, "sunspots", func(s PoolStats) int64 { return s.Garbage }, 2},
		{"many frames", Crashed, "not a message", func(s PoolStats) int64 { return s.Garbage }, 2},
		{"flood", TimedOut, "no word", func(s PoolStats) int64 { return s.TimedOut }, 1},
		{"killed", Crashed, "killed from outside", func(s PoolStats) int64 { return s.Crashed }, 2},
		{"grow", TooLarge, "limit 300 MiB", func(s PoolStats) int64 { return s.TooLarge }, 2},
	} {
		t.Run(c.fault, func(t *testing.T) {
			o := PoolOptions{Size: 1, MemoryBytes: 300 << 20, Silence: time.Minute}
			switch c.fault {
			case "sleep", "flood":
				o.Silence = 100 * time.Millisecond
			case "talk":
				o.Deadline = 200 * time.Millisecond
			}
			p := fakePool(t, c.fault, o)
			verdicts, err := p.InspectAll(t.Context(), []source.Item{{Path: "good.mp4"}, {Path: "bad.mp4"}, {Path: "good.mp4"}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range []int{0, 2} {
				if v := verdicts[i]; !v.Usable || v.Frames != 3 {
					t.Errorf("good file %d: %+v", i, v)
				}
			}
			if v := verdicts[1]; v.Usable || v.Kind != c.kind || !strings.HasPrefix(v.Reason, string(c.kind)) || !strings.Contains(v.Reason, c.says) {
				t.Errorf("bad file: %+v; want %q with %q", v, c.kind, c.says)
			}
			stats := p.Stats()
			all := stats.Crashed + stats.TimedOut + stats.TooLarge + stats.Garbage
			if c.count(stats) != c.lost || all != c.lost || stats.Started != c.lost+1 {
				t.Errorf("%+v; want %d lost", stats, c.lost)
			}
			t.Logf("%s", verdicts[1].Reason)
		})
	}
}

// A process that does not come up is no file's fault.
func TestDecoderThatCannotStart(t *testing.T) {
	for fault, o := range map[string]PoolOptions{"cannot start": {}, "never starts": {Start: 100 * time.Millisecond}} {
		p := fakePool(t, fault, o)
		_, err := p.InspectAll(t.Context(), []source.Item{{Path: "good.mp4"}}, nil)
		var bad *FileError
		if err == nil || errors.As(err, &bad) || fault == "cannot start" && !strings.Contains(err.Error(), "no such library") {
			t.Errorf("%s: %v", fault, err)
		}
		if _, err := OpenDataset(t.Context(), p, Spec{Data: []string{pattern(t, "ok.mp4", 64, 48, 15, 8)}, Size: 8, Frames: 2}, nil); err == nil || errors.As(err, new(*UnusableError)) {
			t.Errorf("%s: dataset: %v", fault, err)
		}
	}
	p := NewPool(PoolOptions{Command: []string{filepath.Join(t.TempDir(), "none")}})
	defer p.Close()
	if _, err := p.ReadFrames(t.Context(), "good.mp4", ReadOptions{}); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
}

// What the system answers to whoever opens a file is no property of the file: the machine's troubles end the inspection,
// and nothing of it is remembered.
func TestFaultsOfTheHour(t *testing.T) {
	dir := t.TempDir()
	for name, want := range map[string]bool{"killed": false, "no right": false, "segfault": true} {
		verdicts, err := OpenVerdicts(filepath.Join(dir, name), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		p := fakePool(t, name, PoolOptions{Size: 1, Verdicts: verdicts})
		bad := write(t, filepath.Join(dir, "bad.mp4"), "content")
		if v := p.Inspect(t.Context(), bad); v.Usable {
			t.Errorf("%s: %+v", name, v)
		}
		if _, _, known := verdicts.recall(bad, bad); known != want {
			t.Errorf("%s: remembered %v, want %v", name, known, want)
		}
		p.Close()
		if err := verdicts.Close(); err != nil {
			t.Error(err)
		}
	}
	p := fakePool(t, "disk gone", PoolOptions{Size: 1})
	_, err := p.InspectAll(t.Context(), []source.Item{{Path: "good.mp4"}, {Path: "bad.mp4"}}, nil)
	if of := new(DecoderError); !errors.As(err, &of) || !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "bad.mp4") {
		t.Errorf("a disk that is gone: %v", err)
	}
}

// Who waits behind the start of another's decoder waits no longer than its context.
func TestWaitForAStartHearsItsContext(t *testing.T) {
	p := fakePool(t, "never starts", PoolOptions{Size: 2, Start: time.Minute})
	first, stopFirst := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { _, _ = p.CountFrames(first, "good.mp4") })
	for len(p.slots) == 0 { // until it has begun
		runtime.Gosched()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.CountFrames(ctx, "good.mp4"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	stopFirst()
	group.Wait()
}

// A wait for a decoder ends at once with its context, and the process with it.
func TestPoolHearsItsContext(t *testing.T) {
	p := fakePool(t, "sleep", PoolOptions{Size: 1})
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	began := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		<-began
		cancel(cause)
	})
	_, err := p.decode(ctx, source.Item{Path: "bad.mp4"}, wire.Request{MaxPixels: 4, MaxFrames: 4}, func() {}, func(f frame) error {
		if f.number == 2 {
			close(began)
		}
		return nil
	})
	if !errors.Is(err, cause) {
		t.Errorf("error %v, want %v", err, cause)
	}
	group.Wait()
	if _, err := p.decode(ctx, source.Item{Path: "good.mp4"}, wire.Request{}, func() {}, nil); !errors.Is(err, cause) {
		t.Errorf("after the end: %v", err)
	}
	if v := p.Inspect(t.Context(), "good.mp4"); !v.Usable {
		t.Errorf("with another context: %+v", v)
	}
	p.Close()
	if v := p.Inspect(t.Context(), "good.mp4"); v.Usable || v.Kind != NotInspected {
		t.Errorf("after Close: %+v", v)
	}
}

// An idle process that is killed is replaced without a word.
func TestIdleDecoderIsReplaced(t *testing.T) {
	p := NewPool(PoolOptions{Size: 1})
	defer p.Close()
	path := pattern(t, "ok.mp4", 64, 48, 15, 8)
	for range 2 {
		if v := p.Inspect(t.Context(), path); !v.Usable {
			t.Fatal(v)
		}
		c := p.pop()
		if err := c.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for c.alive() { // until the kernel has closed its pipe
			time.Sleep(time.Millisecond)
		}
		p.mu.Lock()
		p.idle = append(p.idle, c)
		p.mu.Unlock()
	}
	if v := p.Inspect(t.Context(), path); !v.Usable || p.Stats().Crashed != 2 || p.Stats().Started != 3 {
		t.Errorf("%+v, %+v", v, p.Stats())
	}
}

// Frames larger than half of the shared memory are refused; many small ones go through it again and again.
func TestFramesThroughSharedMemory(t *testing.T) {
	path := pattern(t, "many.mkv", 64, 48, 15, 100, "-c:v", "ffv1", "-pix_fmt", "bgr0")
	want := ffmpegFrames(t, path)
	for _, frames := range []int{2, 3, 7, 64} {
		p := NewPool(PoolOptions{Size: 1, sharedBytes: int64(frames) * 64 * 48 * 3})
		clip, err := p.ReadFrames(t.Context(), path, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if clip.Frames != 100 || !slices.Equal(clip.Pix, want) {
			t.Errorf("memory for %d: %d frames, equal %v", frames, clip.Frames, slices.Equal(clip.Pix, want))
		}
		p.Close()
	}
	p := NewPool(PoolOptions{Size: 1, sharedBytes: 64*48*3*2 - 2})
	defer p.Close()
	var bad *FileError
	if _, err := p.ReadFrames(t.Context(), path, ReadOptions{}); !errors.As(err, &bad) || bad.Kind != TooLarge {
		t.Errorf("memory for less than one: %v", err)
	}
}

// Decoders end with the process that started them, even when that is killed and they are at work.
func TestDecodersEndWithTheirParent(t *testing.T) {
	const variable = "SURMISE_TEST_PARENT"
	if os.Getenv(variable) != "" {
		p := NewPool(PoolOptions{Size: 1, Command: []string{"/proc/self/exe", fakeArgument, "sleep"}})
		_, _ = p.decode(t.Context(), source.Item{Path: "bad.mp4"}, wire.Request{MaxPixels: 4, MaxFrames: 4}, func() {}, func(f frame) error {
			if f.number == 0 {
				fmt.Println("at work")
			}
			return nil
		})
		return
	}
	parent := startTest(t, "^TestDecodersEndWithTheirParent$", variable+"=1")
	parent.waitFor(t, "at work")
	children := childrenOf(t, parent.cmd.Process.Pid)
	if len(children) != 1 {
		t.Fatalf("%d children, want 1", len(children))
	}
	child, err := unix.PidfdOpen(children[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(child)
	if err := parent.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.cmd.Wait()
	// A process descriptor is readable once the process has ended.
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(child), Events: unix.POLLIN}}, int(time.Minute/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != 1 {
			t.Errorf("the decoder outlives its parent (%d, %v)", n, err)
		}
		return
	}
}

// A program that forgets to serve must not start itself over and over.
func TestDecodersStartNoDecoders(t *testing.T) {
	t.Setenv(decoderEnv, "1")
	p := NewPool(PoolOptions{})
	defer p.Close()
	if v := p.Inspect(t.Context(), "x.mp4"); v.Kind != NotInspected || !strings.Contains(v.Reason, "ServeIfAsked") {
		t.Errorf("%+v", v)
	}
}

// A frame that stands for more ticks than a message may say is a fault, unless fewer are asked for.
func TestLongGapsByTheClock(t *testing.T) {
	mat := gocv.NewMatWithSize(2, 2, gocv.MatTypeCV8UC3)
	defer mat.Close()
	visit := func(keep int, gap float64) (*output, error) {
		o := &output{child: &child{}, request: wire.Request{FPS: 10, Keep: keep, NoPixels: true}}
		if err := o.visit(decoded{0, 0, &mat}); err != nil {
			t.Fatal(err)
		}
		return o, o.visit(decoded{1, gap, &mat})
	}
	var bad *FileError
	if _, err := visit(0, 1000); !errors.As(err, &bad) || bad.Kind != TooSlow {
		t.Errorf("10,000 ticks: %v, want a fault", err)
	}
	o, err := visit(0, maxFrames/10.)
	if err != nil || o.message.Frames[1].Repeat != maxFrames {
		t.Errorf("%d ticks: %+v, %v", maxFrames, o.message.Frames, err)
	}
	o, err = visit(100, 1000)
	if err != nil || o.message.Frames[1].Repeat != 100 {
		t.Errorf("10,000 ticks, of which 100 frames are kept: %+v, %v", o.message.Frames, err)
	}
}

// A decoder that was killed from outside says nothing of the files: a dataset that would be refused for them is not their fault.
func TestKilledDecodersAreNoFaultOfADataset(t *testing.T) {
	for fault, machine := range map[string]bool{"killed": true, "segfault": false} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "bad.mp4"), "content")
		_, err := OpenDataset(t.Context(), fakePool(t, fault, PoolOptions{Size: 1}), Spec{Data: []string{dir}, Size: 16, Frames: 2}, nil)
		var refused *UnusableError
		var decoder *DecoderError
		if !errors.As(err, &refused) || errors.As(err, &decoder) != machine {
			t.Errorf("%s: %v, the machine's fault: %t, want %t", fault, err, !machine, machine)
		}
	}
}

// What a decoder that was taken over may say at the end is held to what a true one says.
func TestLastWordsMustBeCredible(t *testing.T) {
	sampled := wire.Request{FPS: 30, MaxFrames: 100}
	slow := func(from, to float64, n int) wire.Done {
		return wire.Done{Slow: &wire.Stretch{From: from, To: to, Intervals: n}}
	}
	for _, c := range []struct {
		done wire.Done
		r    wire.Request
		want bool
	}{
		{wire.Done{Frames: 100, Height: 1, Width: 1, Codec: "h264"}, sampled, true},
		{wire.Done{FaultKind: string(Unreadable), FaultErrno: int(syscall.EACCES)}, sampled, true},
		{slow(1, 2, 5), sampled, true},
		{slow(1, 2, 5), wire.Request{MaxFrames: 100}, false},
		{slow(5, 5, -3), sampled, false},
		{slow(-1, 5, 3), sampled, false},
		{slow(1, 5, 101), sampled, false},
		{wire.Done{FaultErrno: int(syscall.EIO)}, sampled, false},
		{wire.Done{FaultKind: string(Unreadable), FaultErrno: -7}, sampled, false},
		{wire.Done{FaultKind: "bored"}, sampled, false},
		{wire.Done{Frames: 101}, sampled, false},
	} {
		if got := credible(c.done, c.r); got != c.want {
			t.Errorf("%+v %+v: %t", c.done, c.done.Slow, got)
		}
	}
}

// Nor is a video left out of scores for it, or a training ended.
func TestKilledDecodersAreNoFaultOfAReading(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bad.mp4")
	write(t, path, "content")
	p := fakePool(t, "killed", PoolOptions{Size: 1})
	_, read := p.ReadFrames(t.Context(), path, ReadOptions{Size: 16})
	_, counted := p.CountFrames(t.Context(), path)
	for _, err := range []error{read, counted} {
		var bad *FileError
		var machine *DecoderError
		if errors.As(err, &bad) || !errors.As(err, &machine) || !strings.Contains(err.Error(), "killed from outside") {
			t.Errorf("%v", err)
		}
	}
}
