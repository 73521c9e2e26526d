package video

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/surmise-ml/surmise/video/source"
	"github.com/surmise-ml/surmise/video/wire"
)

// cpuTime is what this process and a decoder of a pool with one have used.
func cpuTime(b *testing.B, p *Pool) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	total := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid), "stat"))
		if err != nil {
			b.Fatal(err)
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
		for _, f := range fields[11:13] {
			n, err := strconv.Atoi(f)
			if err != nil {
				b.Fatal(err)
			}
			total += time.Duration(n) * tick
		}
	}
	return total
}

// BenchmarkAgainstFFmpeg decodes a file, cuts the middle out and reduces it to 112 px, and has ffmpeg do the same in
// the same run. Frames per second of processor time, both processes of ours together, so that a busy machine does not
// matter. SURMISE_BENCH_VIDEO names another file.
func BenchmarkAgainstFFmpeg(b *testing.B) {
	path := benchVideo(b)
	for _, c := range []struct {
		name    string
		request wire.Request
		filter  string
	}{
		{"square112", wire.Request{Step: 1, Square: 112, Inspected: true}, "crop=min(iw\\,ih):min(iw\\,ih),scale=112:112"},
		{"short224", wire.Request{Step: 1, Short: 224, Inspected: true}, "scale=-2:224"},
		{"inspect", wire.Request{Step: 1, NoPixels: true, Digests: true}, "null"},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := NewPool(PoolOptions{Size: 1})
			defer p.Close()
			frames := 0
			decode := func() {
				if _, err := p.decode(b.Context(), source.Item{Path: path}, c.request, func() {}, func(frame) error { frames++; return nil }); err != nil {
					b.Fatal(err)
				}
			}
			decode()
			frames = 0
			var theirs time.Duration
			began := cpuTime(b, p)
			for b.Loop() {
				decode()
			}
			ours := cpuTime(b, p) - began
			for range b.N {
				command := exec.CommandContext(b.Context(), "ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-i", path,
					"-vf", c.filter, "-pix_fmt", "rgb24", "-f", "rawvideo", "-y", "/dev/null")
				if err := command.Run(); err != nil {
					b.Fatal(err)
				}
				theirs += command.ProcessState.UserTime() + command.ProcessState.SystemTime()
			}
			b.ReportMetric(float64(frames)/ours.Seconds(), "frames/cpu-s")
			b.ReportMetric(float64(frames)/theirs.Seconds(), "ffmpeg-frames/cpu-s")
			b.ReportMetric(theirs.Seconds()/ours.Seconds(), "x-ffmpeg")
		})
	}
}

// BenchmarkInspectShortFiles inspects files of 60 frames, and one file that holds as many frames as 50 of them. The
// ratio of processor time, ours and the decoder's, is what opening, looking through packets and judging costs.
func BenchmarkInspectShortFiles(b *testing.B) {
	const files = 50
	short := encode(b, "short.mp4", "-f", "lavfi", "-i", "testsrc2=size=340x256:rate=30:duration=2", "-c:v", "libx264", "-pix_fmt", "yuv420p")
	list := write(b, filepath.Join(b.TempDir(), "list"), strings.Repeat("file '"+short+"'\n", files))
	long := encode(b, "long.mp4", "-f", "concat", "-safe", "0", "-i", list, "-c", "copy")
	p := NewPool(PoolOptions{Size: 1})
	defer p.Close()
	inspect := func(path string, frames int) time.Duration {
		began := cpuTime(b, p)
		if v := p.Inspect(b.Context(), path); !v.Usable || v.Frames != frames {
			b.Fatal(v)
		}
		return cpuTime(b, p) - began
	}
	inspect(short, 60)
	var one, many time.Duration
	for b.Loop() {
		one += inspect(long, files*60)
		began := cpuTime(b, p)
		for range files {
			if v := p.Inspect(b.Context(), short); !v.Usable {
				b.Fatal(v)
			}
		}
		many += cpuTime(b, p) - began
	}
	b.ReportMetric(many.Seconds()/one.Seconds(), "x-long-file")
	b.ReportMetric(float64(many.Milliseconds())/float64(b.N*files), "cpu-ms/file")
}

// BenchmarkAgainstPyAV decodes a file to 112 px and has PyAV do the same, in turns: frames per second of processor
// time, starting left out on both sides. The head of bench/pyav/decode.py says how to get PyAV; SURMISE_PYTHON names
// another interpreter than /usr/bin/python3, SURMISE_BENCH_VIDEO another file.
func BenchmarkAgainstPyAV(b *testing.B) {
	python, script := os.Getenv("SURMISE_PYTHON"), filepath.Join("..", "bench", "pyav", "decode.py")
	if python == "" {
		python = "/usr/bin/python3"
	}
	if out, err := exec.CommandContext(b.Context(), python, "-c", "import av").CombinedOutput(); err != nil {
		b.Skipf("no PyAV in %s (%v): %s", python, err, out)
	}
	path := benchVideo(b)
	p := NewPool(PoolOptions{Size: 1})
	defer p.Close()
	frames := 0
	decode := func() {
		_, err := p.decode(b.Context(), source.Item{Path: path}, wire.Request{Step: 1, Square: 112, Inspected: true}, func() {}, func(frame) error { frames++; return nil })
		if err != nil {
			b.Fatal(err)
		}
	}
	decode()
	frames = 0
	var ours, theirs time.Duration
	theirFrames := 0
	for b.Loop() {
		began := cpuTime(b, p)
		decode()
		ours += cpuTime(b, p) - began
		out, err := exec.CommandContext(b.Context(), python, script, path).Output()
		if err != nil {
			b.Fatalf("%s %s: %v", python, script, err)
		}
		var said struct {
			Frames int     `json:"frames"`
			CPU    float64 `json:"cpu_s"`
		}
		if err := json.Unmarshal(out, &said); err != nil {
			b.Fatalf("%s printed %q: %v", script, out, err)
		}
		theirs += time.Duration(said.CPU * float64(time.Second))
		theirFrames += said.Frames
	}
	if frames != theirFrames {
		b.Errorf("%d frames here, %d by PyAV", frames, theirFrames)
	}
	b.ReportMetric(float64(frames)/ours.Seconds(), "frames/cpu-s")
	b.ReportMetric(float64(theirFrames)/theirs.Seconds(), "pyav-frames/cpu-s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "x-pyav")
}

// benchVideo is the file that SURMISE_BENCH_VIDEO names, or a made one.
func benchVideo(b *testing.B) string {
	b.Helper()
	if path := os.Getenv("SURMISE_BENCH_VIDEO"); path != "" {
		return path
	}
	return encode(b, "340x256.mp4", "-f", "lavfi", "-i", "testsrc2=size=340x256:rate=30:duration=20", "-c:v", "libx264", "-pix_fmt", "yuv420p")
}
