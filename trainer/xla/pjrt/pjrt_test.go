package pjrt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/surmise-ml/surmise/trainer/xla/pjrt/pjrttest"
)

// adds takes x and y of [2,3], donates x, and gives x+y and a copy of y.
const adds = `
fake: f32 2x3 = add 0 1 alias 0
fake: f32 2x3 = copy 1
`

func watched(t *testing.T, settings ...string) *pjrttest.Plugin {
	t.Helper()
	return pjrttest.New(t, filepath.Join(t.TempDir(), "plugin.so"), settings...)
}

func unwatched(t *testing.T, settings ...string) *pjrttest.Plugin {
	t.Helper()
	return pjrttest.NewUnwatched(t, filepath.Join(t.TempDir(), "plugin.so"), settings...)
}

// open loads a plugin and takes its devices.
func open(t *testing.T, f *pjrttest.Plugin, options ...Option) *Client {
	t.Helper()
	p, err := Load(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.NewClient(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func floats(xs ...float32) []byte {
	var out []byte
	for _, x := range xs {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
	}
	return out
}

var x, y, sum = floats(1, 2, 3, 4, 5, 6), floats(10, 20, 30, 40, 50, 60), floats(11, 22, 33, 44, 55, 66)

// session does everything there is to do once, and gives everything back whatever fails.
func session(ctx context.Context, path string) (got []byte, err error) {
	p, err := Load(path)
	if err != nil {
		return nil, err
	}
	c, err := p.NewClient()
	if err != nil {
		return nil, err
	}
	var opened []interface{ Close() error }
	defer func() {
		for i := len(opened) - 1; i >= 0; i-- {
			err = errors.Join(err, opened[i].Close())
		}
	}()
	opened = append(opened, c)
	d := c.Devices()[0]
	if _, err := d.Memory(); err != nil {
		return nil, err
	}
	program, err := c.Compile([]byte(adds), CompileOptions{})
	if err != nil {
		return nil, err
	}
	opened = append(opened, program)
	var arguments []*Buffer
	for _, data := range [][]byte{x, y} {
		b, sent, err := d.Upload(F32, []int{2, 3}, data)
		if err != nil {
			return nil, err
		}
		opened = append(opened, b)
		if err := sent.Wait(ctx); err != nil {
			return nil, err
		}
		arguments = append(arguments, b)
	}
	outputs, run, err := program.Execute(arguments, []int{0})
	if err != nil {
		return nil, err
	}
	for _, b := range outputs {
		opened = append(opened, b)
	}
	ready, err := outputs[0].Ready()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(run.Wait(ctx), ready.Wait(ctx)); err != nil {
		return nil, err
	}
	got = make([]byte, len(sum))
	fetched, err := outputs[0].Download(got)
	if err != nil {
		return nil, err
	}
	return got, fetched.Wait(ctx)
}

func TestASession(t *testing.T) {
	for _, threads := range []string{"0", "1"} {
		f := watched(t, "threads", threads)
		got, err := session(t.Context(), f.Path)
		if err != nil || !bytes.Equal(got, sum) {
			t.Errorf("threads %s: got %v, %v", threads, got, err)
		}
	}
}

func TestWhatThereIs(t *testing.T) {
	f := watched(t, "devices", "3")
	c := open(t, f, Option{"visible_devices", []int64{2}}, Option{"memory_fraction", float32(0.5)}, Option{"preallocate", false}, Option{"allocator", "bfc"})
	p := c.Plugin()
	if p.Version() != "0.104" || p.Path() != f.Path {
		t.Errorf("version %s of %s", p.Version(), p.Path())
	}
	if want := map[string]string{"xla_version": "2", "stablehlo_current_version": "1.13.0", "kind": "fake"}; !reflect.DeepEqual(p.Attributes(), want) {
		t.Errorf("attributes %v", p.Attributes())
	}
	if c.Platform() != "fake" || c.PlatformVersion() != "fake 13000" || len(c.Devices()) != 1 {
		t.Errorf("platform %s, %s, %d devices", c.Platform(), c.PlatformVersion(), len(c.Devices()))
	}
	if d := c.Devices()[0]; d.String() != "Fake 1000 (fake 2)" || d.ID != 0 {
		t.Errorf("device %s, %d", d, d.ID)
	}
	if all := open(t, f).Devices(); len(all) != 3 || all[2].Hardware != 2 {
		t.Errorf("without a choice: %d devices", len(all))
	}
}

func TestOptionsThatAreWrong(t *testing.T) {
	f := watched(t, "devices", "2")
	p, err := Load(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	for says, o := range map[string]Option{
		"device ordinal 7 is not among 2": {"visible_devices", []int64{7}},
		"memory_fraction 2":               {"memory_fraction", float32(2)},
		"Unexpected option name":          {"colour", "red"},
		"option n: a int, want":           {"n", 1},
	} {
		if _, err := p.NewClient(o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want %q", o, err, says)
		}
	}
}

func TestMemoryIsTold(t *testing.T) {
	f := watched(t, "limit", "1000")
	c := open(t, f)
	d := c.Devices()[0]
	b := upload(t, d, x)
	m, err := d.Memory()
	if want := (Memory{InUse: 24, Peak: 24, Limit: 1000, LargestFree: 976, Pool: -1}); err != nil || m != want {
		t.Errorf("memory %+v, %v; want %+v", m, err, want)
	}
	program := compile(t, c)
	planned, ok := program.Memory()
	if want := (CompiledMemory{Outputs: 48, Aliased: 24, Temporary: 4096, Code: 1000}); !ok || planned != want {
		t.Errorf("planned %+v, %v; want %+v", planned, ok, want)
	}
	if kind, dims, err := b.Shape(); kind != F32 || !reflect.DeepEqual(dims, []int{2, 3}) || err != nil {
		t.Errorf("shape %v %v, %v", kind, dims, err)
	}
}

// Each function fails in turn: its text comes through, and all else is given back.
func TestEveryFunctionFails(t *testing.T) {
	for function, name := range names {
		if function == errorDestroy || function == errorMessage {
			continue // they cannot fail
		}
		t.Run(name, func(t *testing.T) {
			f := unwatched(t, "threads", "1")
			text := name + " fails because a test wants it to"
			if function == errorGetCode { // then another error loses its code and keeps its text
				f.Set("limit", "10")
				f.Set("fail", name)
				text = "PJRT_Client_BufferFromHostBuffer: UNKNOWN: Out of memory while trying to allocate 24 bytes."
			} else {
				f.Set("fail", name)
			}
			_, err := session(t.Context(), f.Path)
			if function == eventAwait { // is called only when the callback of an event cannot be registered
				if err != nil {
					t.Fatal(err)
				}
				f.Set("fail", "PJRT_Event_OnReady")
				if _, err = session(t.Context(), f.Path); err == nil || !strings.Contains(err.Error(), "PJRT_Event_OnReady fails") {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("got %v, want %q in it", err, text)
			}
			destroys := strings.HasSuffix(name, "Destroy")
			if n := f.Live(); n != 0 && !destroys {
				t.Errorf("%d objects are left", n)
			}
			if v := f.Violations(); v != "" && !destroys { // what was not destroyed is in the way of the client's end
				t.Errorf("the plugin complains: %s", v)
			}
		})
	}
}

// What failed for once may be tried again.
func TestAFailureIsNotTheEnd(t *testing.T) {
	for function, name := range names {
		if destroys := strings.HasSuffix(name, "Destroy"); destroys || function == errorMessage || function == errorGetCode || function == eventAwait {
			continue
		}
		f := watched(t, "threads", "1", "fail", name)
		if _, err := session(t.Context(), f.Path); err == nil {
			t.Errorf("%s: no error", name)
		}
		f.Set("fail", "")
		if got, err := session(t.Context(), f.Path); err != nil || !bytes.Equal(got, sum) {
			t.Errorf("after %s: got %v, %v", name, got, err)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		settings []string
		says     string // "": works
	}{
		{[]string{"minor", "54", "entries", "100"}, ""},
		{[]string{"minor", "103"}, ""},
		{[]string{"minor", "160", "grow", "64"}, ""},
		{[]string{"minor", "160", "grow", "128"}, ""},
		{[]string{"minor", "160", "grow", "136"}, "Unexpected PJRT_Plugin_Initialize_Args size: expected 152, got 144. Check installed software versions."},
		{[]string{"minor", "53"}, "it is too old: it speaks version 0.53 of the PJRT C API"},
		{[]string{"major", "1", "minor", "2"}, "it is too new: it speaks version 1.2 of the PJRT C API"},
		{[]string{"entries", "60"}, "lacks PJRT_"},
		{[]string{"entries", "0"}, "lacks PJRT_"},
	} {
		f := watched(t, c.settings...)
		got, err := session(t.Context(), f.Path)
		switch {
		case c.says == "" && (err != nil || !bytes.Equal(got, sum)):
			t.Errorf("%v: got %v, %v", c.settings, got, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%v: %v, want %q", c.settings, err, c.says)
		}
		var v *VersionError
		if about := strings.Contains(c.says, "it is too"); about != errors.As(err, &v) {
			t.Errorf("%v: %v is a VersionError: %v", c.settings, err, !about)
		}
	}
}

func TestAPluginWithoutPlans(t *testing.T) {
	f := watched(t, "entries", "96")
	if _, ok := compile(t, open(t, f)).Memory(); ok {
		t.Error("it told of memory")
	}
}

func TestWhatIsNoPlugin(t *testing.T) {
	dir := t.TempDir()
	prose := filepath.Join(dir, "prose.so")
	if err := os.WriteFile(prose, []byte("once upon a time"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		filepath.Join(dir, "none.so"): "No such file",
		prose:                         "prose.so",
		"/lib64/ld-linux-x86-64.so.2": "it is no PJRT plugin",
	} {
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", path, err, says)
		}
	}
}

func TestOutOfMemory(t *testing.T) {
	f := watched(t, "limit", "60")
	c := open(t, f)
	d := c.Devices()[0]
	program := compile(t, c)
	a, b := upload(t, d, x), upload(t, d, y)
	_, _, err := d.Upload(F32, []int{2, 3}, x)
	if wanted, is := IsOutOfMemory(err); !is || wanted != 24 {
		t.Errorf("upload: %d bytes wanted by %v", wanted, err)
	}
	_, _, err = program.Execute([]*Buffer{a, b}, []int{0})
	if wanted, is := IsOutOfMemory(err); !is || wanted != 24 {
		t.Errorf("run: %d bytes wanted by %v", wanted, err)
	}
	f.Set("limit", "1000") // the arguments are still there
	outputs, run, err := program.Execute([]*Buffer{a, b}, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if got := download(t, outputs[0]); !bytes.Equal(got, sum) {
		t.Errorf("got %v", got)
	}
	closeAll(t, outputs)
}

func TestSizesInTexts(t *testing.T) {
	for text, want := range map[string]int64{
		"Out of memory while trying to allocate 17179869184 bytes.":                     17179869184,
		"Out of memory while trying to allocate 16.00GiB.":                              16 << 30,
		"Failed to allocate request for 1.5MiB (1572864B) on device ordinal 0":          0,
		"Allocator (GPU_0_bfc) ran out of memory trying to allocate 2.5KiB (rounded)":   2560,
		"Out of memory while trying to allocate 99999999999999999999999999999999 bytes": 0,
		"something else": 0,
	} {
		if got := wantedBytes(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	if _, is := IsOutOfMemory(fmt.Errorf("x: %w", &Error{Code: Internal, Text: "allocate 3 bytes"})); is {
		t.Error("an internal error is taken for lack of memory")
	}
}

// What goes wrong on the device shows where the result is waited for.
func TestARunThatFails(t *testing.T) {
	for _, threads := range []string{"0", "1"} {
		f := watched(t, "threads", threads, "run_error", "the device caught fire")
		c := open(t, f)
		d := c.Devices()[0]
		program := compile(t, c)
		a, b := upload(t, d, x), upload(t, d, y)
		outputs, run, err := program.Execute([]*Buffer{a, b}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ready, err := outputs[0].Ready()
		if err != nil {
			t.Fatal(err)
		}
		fetched, err := outputs[0].Download(make([]byte, len(sum)))
		if err != nil {
			t.Fatal(err)
		}
		for what, p := range map[string]*Pending{"run": run, "ready": ready, "download": fetched} {
			var e *Error
			if err := p.Wait(t.Context()); !errors.As(err, &e) || e.Code != Internal || e.Text != "the device caught fire" {
				t.Errorf("threads %s: %s: %v", threads, what, err)
			}
		}
		closeAll(t, outputs)
	}
}

// While the plugin reads and writes the caller's memory, that stays where it is though nobody else holds it.
func TestMemoryStaysDuringTransfers(t *testing.T) {
	f := watched(t, "threads", "1", "held", "1")
	c := open(t, f)
	d := c.Devices()[0]
	const n = 1 << 16
	b, sent, err := d.Upload(U8, []int{n}, bytes.Repeat([]byte{7}, n)) // held by nobody
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, n)
	fetched, err := b.Download(got)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		runtime.GC()
		_ = bytes.Repeat([]byte{9}, n) // takes memory that was free
	}
	for _, p := range []*Pending{sent, fetched} {
		select {
		case <-p.Done():
			t.Error("over before the plugin did anything")
		default:
		}
	}
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("no patience"))
	if err := sent.Wait(cancelled); err == nil || err.Error() != "no patience" {
		t.Errorf("waiting without patience: %v", err)
	}
	f.Set("held", "0")
	if err := errors.Join(sent.Wait(t.Context()), fetched.Wait(t.Context()), b.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, bytes.Repeat([]byte{7}, n)) {
		t.Error("the bytes changed on the way")
	}
}

// A client is closed after the work that goes on.
func TestCloseWaits(t *testing.T) {
	f := watched(t, "threads", "1", "held", "1")
	p, err := Load(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	b, sent, err := c.Devices()[0].Upload(F32, []int{2, 3}, x)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil { // its memory goes when the transfer is over
		t.Fatal(err)
	}
	closed := make(chan error)
	go func() { closed <- c.Close() }()
	f.Set("held", "0")
	if err := <-closed; err != nil {
		t.Error(err)
	}
	select {
	case <-sent.Done():
	default:
		t.Error("closed before the transfer was over")
	}
	if _, _, err := c.Devices()[0].Upload(F32, []int{2, 3}, x); !errors.Is(err, errClosed) {
		t.Errorf("upload after the end: %v", err)
	}
	if _, err := c.Compile([]byte(adds), CompileOptions{}); !errors.Is(err, errClosed) {
		t.Errorf("compiling after the end: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

func TestMisuse(t *testing.T) {
	f := watched(t)
	c := open(t, f)
	d := c.Devices()[0]
	program := compile(t, c)
	a, b := upload(t, d, x), upload(t, d, y)
	other := upload(t, open(t, watched(t)).Devices()[0], x)
	closed := upload(t, d, x)
	if err := errors.Join(closed.Close(), closed.Close()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	for says, try := range map[string]func() error{
		"2 executables and 2 buffers are open": func() error {
			extra := compile(t, c)
			return errors.Join(c.Close(), extra.Close())
		},
		"23 bytes, want 24":                func() error { _, _, err := d.Upload(F32, []int{2, 3}, x[:23]); return err },
		"element type 99":                  func() error { _, _, err := d.Upload(99, nil, nil); return err },
		"dimension 1 is -1":                func() error { _, _, err := d.Upload(F32, []int{2, -1}, nil); return err },
		"dimension 1 is 9223372036854775":  func() error { _, _, err := d.Upload(F32, []int{2, math.MaxInt}, nil); return err },
		"65 dimensions":                    func() error { _, _, err := d.Upload(F32, make([]int, 65), nil); return err },
		"23 bytes of room, want 24":        func() error { _, err := a.Download(make([]byte, 23)); return err },
		"downloading a tensor: it is clos": func() error { _, err := closed.Download(make([]byte, 24)); return err },
		"waiting for a tensor: it is clos": func() error { _, err := closed.Ready(); return err },
		"the shape of a tensor: it is clo": func() error { _, _, err := closed.Shape(); return err },
		"argument 1: it is closed":         func() error { _, _, err := program.Execute([]*Buffer{a, closed}, nil); return err },
		"argument 1 is of another client":  func() error { _, _, err := program.Execute([]*Buffer{a, other}, nil); return err },
		"donated argument 0 is in use":     func() error { _, _, err := program.Execute([]*Buffer{a, a}, []int{0}); return err },
		"donated argument 1 is in use":     func() error { _, _, err := program.Execute([]*Buffer{a, a}, []int{1}); return err },
		"donated argument 2 of 2":          func() error { _, _, err := program.Execute([]*Buffer{a, b}, []int{2}); return err },
		"argument 1 does not suit it":      func() error { _, _, err := program.Execute([]*Buffer{a}, nil); return err },
		"Failed to parse MLIR":             func() error { _, err := c.Compile([]byte("nonsense"), CompileOptions{}); return err },
		"compiler option n: a int":         func() error { _, err := c.Compile(nil, CompileOptions{Overrides: map[string]any{"n": 1}}); return err },
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
	if err := errors.Join(program.Close(), program.Close()); err != nil {
		t.Error(err)
	}
	if _, _, err := program.Execute([]*Buffer{a, b}, nil); !errors.Is(err, errClosed) {
		t.Errorf("running a closed program: %v", err)
	}
}

func TestDonation(t *testing.T) {
	f := watched(t)
	c := open(t, f)
	d := c.Devices()[0]
	program := compile(t, c)
	a, b := upload(t, d, x), upload(t, d, y)
	run := func(donated ...int) [][]byte {
		t.Helper()
		outputs, done, err := program.Execute([]*Buffer{a, b}, donated)
		if err != nil {
			t.Fatal(err)
		}
		if err := done.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := [][]byte{download(t, outputs[0]), download(t, outputs[1])}
		closeAll(t, outputs)
		return got
	}
	want := [][]byte{sum, y}
	if got := run(); !reflect.DeepEqual(got, want) { // though the program allows it, nothing is donated
		t.Errorf("got %v", got)
	}
	if got := download(t, a); !bytes.Equal(got, x) {
		t.Errorf("the argument became %v", got)
	}
	if got := run(0); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if _, err := a.Download(make([]byte, len(x))); !errors.Is(err, errClosed) {
		t.Errorf("downloading what was donated: %v", err)
	}
	if _, _, err := program.Execute([]*Buffer{a, b}, nil); !errors.Is(err, errClosed) {
		t.Errorf("passing what was donated: %v", err)
	}
}

func TestTensorsWithoutSizesOrElements(t *testing.T) {
	f := watched(t)
	d := open(t, f).Devices()[0]
	for _, c := range []struct {
		dims []int
		data []byte
	}{{nil, floats(3)}, {[]int{0, 4}, nil}} {
		b, sent, err := d.Upload(F32, c.dims, c.data)
		if err != nil {
			t.Fatal(err)
		}
		if err := sent.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(c.data))
		fetched, err := b.Download(got)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(fetched.Wait(t.Context()), b.Close()); err != nil || !bytes.Equal(got, c.data) {
			t.Errorf("%v: got %v, %v", c.dims, got, err)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	f := watched(t, "threads", "1")
	c := open(t, f)
	program := compile(t, c)
	d := c.Devices()[0]
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 20 {
				in := bytes.Clone(x)
				a, sentA, err := d.Upload(F32, []int{2, 3}, in)
				if err != nil {
					t.Error(err)
					return
				}
				b, sentB, err := d.Upload(F32, []int{2, 3}, y)
				if err != nil {
					t.Error(err)
					return
				}
				outputs, _, err := program.Execute([]*Buffer{a, b}, []int{0})
				if err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(sentA.Wait(t.Context()), sentB.Wait(t.Context())); err != nil {
					t.Error(err)
				}
				clear(in) // it may change now
				if got := download(t, outputs[0]); !bytes.Equal(got, sum) {
					t.Errorf("goroutine %d, run %d: got %v", g, i, got)
				}
				closeAll(t, append(outputs, a, b))
			}
		})
	}
	all.Wait()
}

// The fake is only worth something if it bites.
func TestTheFakeBites(t *testing.T) {
	t.Run("host memory changed", func(t *testing.T) {
		f := unwatched(t, "threads", "1", "held", "1")
		d := open(t, f).Devices()[0]
		data := bytes.Clone(x)
		b, sent, err := d.Upload(F32, []int{2, 3}, data)
		if err != nil {
			t.Fatal(err)
		}
		data[0]++
		f.Set("held", "0")
		if err := errors.Join(sent.Wait(t.Context()), b.Close()); err != nil {
			t.Fatal(err)
		}
		complains(t, f, "host memory was changed before the transfer was done")
	})
	t.Run("use after the end", func(t *testing.T) {
		f := unwatched(t)
		c := open(t, f)
		b := upload(t, c.Devices()[0], x)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := call(c.plugin, bufferDestroy, &ofHandle{object: b.handle}); err == nil {
				t.Error("destroyed twice")
			}
		}
		complains(t, f, "PJRT_Buffer_Destroy: the buffer was destroyed before")
	})
	t.Run("an event that nobody waits for", func(t *testing.T) {
		f := unwatched(t, "threads", "1", "held", "1")
		c := open(t, f)
		var pins runtime.Pinner
		defer pins.Unpin()
		args := bufferFromHostArgs{client: c.handle, data: pinnedBytes(x, &pins), kind: F32, semantics: immutableUntilTransferCompletes, device: c.devices[0].handle}
		if err := call(c.plugin, clientBufferFromHostBuffer, &args); err != nil {
			t.Fatal(err)
		}
		for _, last := range []error{call(c.plugin, eventDestroy, &ofHandle{object: args.doneReading}), call(c.plugin, bufferDestroy, &ofHandle{object: args.buffer})} {
			if last != nil {
				t.Error(last)
			}
		}
		f.Set("held", "0")
		complains(t, f, "the event was not ready, and nobody waited for it")
	})
	t.Run("a client that ends first", func(t *testing.T) {
		f := unwatched(t)
		p, err := Load(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := p.NewClient()
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := c.Devices()[0].Upload(F32, []int{2, 3}, x)
		if err != nil {
			t.Fatal(err)
		}
		if err := call(p, clientDestroy, &ofHandle{object: c.handle}); err != nil {
			t.Error(err)
		}
		complains(t, f, "PJRT_Client_Destroy: 1 of kind buffer still there")
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a struct that is too long", func(t *testing.T) {
		f := unwatched(t)
		c := open(t, f)
		c.plugin.newer = true
		if _, err := c.Devices()[0].Memory(); err != nil {
			t.Error(err)
		}
		complains(t, f, "PJRT_Device_MemoryStats_Args: size 320, want at most 192")
	})
}

func complains(t *testing.T, f *pjrttest.Plugin, of string) {
	t.Helper()
	if v := f.Violations(); !strings.Contains(v, of) {
		t.Errorf("the plugin complains %q, want %q", v, of)
	}
}

func TestForgottenObjectsAreReported(t *testing.T) {
	f := unwatched(t)
	told := make(chan string, 10)
	onLeak = func(what string) { told <- what }
	defer func() { onLeak = nil }()
	d := open(t, f).Devices()[0]
	kept, _, err := d.Upload(F32, []int{2, 3}, x)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Upload(F32, []int{2, 3}, x); err != nil { // forgotten
		t.Fatal(err)
	}
	var what string
	for what == "" {
		runtime.GC()
		select {
		case what = <-told:
		default:
			runtime.Gosched()
		}
	}
	if what != "buffer" || len(told) != 0 {
		t.Errorf("told of %s and %d more", what, len(told))
	}
	if err := kept.Close(); err != nil {
		t.Error(err)
	}
	d.client.add(&d.client.buffers, -1) // so that the client closes
}

func TestCompileOptionsAreAProtocolBuffer(t *testing.T) {
	o := CompileOptions{Precision: 2, Overrides: map[string]any{"xla_s": "text", "xla_b": true, "xla_off": false, "xla_i": int64(-3), "xla_d": 0.5}}
	encoded, err := o.encode()
	if err != nil {
		t.Fatal(err)
	}
	top := fieldsOf(t, encoded)
	build := fieldsOf(t, top[3][0].([]byte))
	if want := map[protowire.Number][]any{1: {uint64(math.MaxUint64)}, 4: {uint64(1)}, 5: {uint64(1)}}; !reflect.DeepEqual(build, want) {
		t.Errorf("build options %v, want %v", build, want)
	}
	if !reflect.DeepEqual(top[10], []any{uint64(2)}) {
		t.Errorf("precision %v", top[10])
	}
	got := map[string]map[protowire.Number][]any{}
	for _, entry := range top[7] {
		pair := fieldsOf(t, entry.([]byte))
		got[string(pair[1][0].([]byte))] = fieldsOf(t, pair[2][0].([]byte))
	}
	minus3 := int64(-3)
	want := map[string]map[protowire.Number][]any{
		"xla_s": {1: {[]byte("text")}}, "xla_b": {2: {uint64(1)}}, "xla_off": {2: {uint64(0)}},
		"xla_i": {3: {uint64(minus3)}}, "xla_d": {4: {math.Float64bits(0.5)}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("overrides %v, want %v", got, want)
	}
	if plain, err := (CompileOptions{}).encode(); err != nil || len(fieldsOf(t, plain)) != 1 {
		t.Errorf("no options: %v, %v", plain, err)
	}
}

// fieldsOf reads a message as protocol buffers are defined, by another's code.
func fieldsOf(t *testing.T, b []byte) map[protowire.Number][]any {
	t.Helper()
	out := map[protowire.Number][]any{}
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		var v any
		switch kind {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			v, n = protowire.ConsumeBytes(b)
		default:
			t.Fatalf("field %d has type %d", number, kind)
		}
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		out[number] = append(out[number], v)
	}
	return out
}

func compile(t *testing.T, c *Client) *Executable {
	t.Helper()
	program, err := c.Compile([]byte(adds), CompileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := program.Close(); err != nil {
			t.Error(err)
		}
	})
	return program
}

func upload(t *testing.T, d *Device, data []byte) *Buffer {
	t.Helper()
	b, sent, err := d.Upload(F32, []int{2, 3}, data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := sent.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func download(t *testing.T, b *Buffer) []byte {
	t.Helper()
	got := make([]byte, len(sum))
	fetched, err := b.Download(got)
	if err == nil {
		err = fetched.Wait(t.Context())
	}
	if err != nil {
		t.Error(err)
	}
	return got
}

func closeAll(t *testing.T, buffers []*Buffer) {
	t.Helper()
	for _, b := range buffers {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}
