package wire

import (
	"bytes"
	"errors"
	"io"
	"os"
	"reflect"
	"testing"
	"testing/iotest"
)

func TestRoundTrip(t *testing.T) {
	var pipe bytes.Buffer
	request := Request{Path: "/v/a.mp4", MaxPixels: 9, MaxFrames: 8, Numbers: []int{1, 5}, Short: 4, Seek: &Seek{First: 1, Digests: []uint32{7}}}
	frames := Frames{Height: 2, Width: 3, Offset: 64, Frames: []Frame{{Number: 1, Repeat: 1, Digest: 9, Time: 0.5}, {Number: 5, Repeat: 2, Time: 0.5}}}
	if err := WriteJSON(&pipe, KindRequest, request); err != nil {
		t.Fatal(err)
	}
	if err := Write(&pipe, KindFrames, frames.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if err := Write(&pipe, KindFree, nil); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{
		"at once":     bytes.NewReader(pipe.Bytes()),
		"byte wise":   iotest.OneByteReader(bytes.NewReader(pipe.Bytes())),
		"with breaks": &hesitant{r: bytes.NewReader(pipe.Bytes())},
	} {
		reader := NewReader(r)
		next := func() (Kind, []byte) {
			for {
				kind, body, err := reader.Next()
				if errors.Is(err, os.ErrDeadlineExceeded) {
					continue
				}
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				return kind, body
			}
		}
		var gotRequest Request
		kind, body := next()
		if err := ParseJSON(body, &gotRequest); err != nil || kind != KindRequest || !reflect.DeepEqual(gotRequest, request) {
			t.Errorf("%s: kind %d, %+v, %v; want %+v", name, kind, gotRequest, err, request)
		}
		var gotFrames Frames
		kind, body = next()
		lim := Limits{Memory: 100, Pixels: 6, Number: 6, Repeat: 2}
		if err := ParseFrames(body, true, lim, &gotFrames); err != nil || kind != KindFrames || !reflect.DeepEqual(gotFrames, frames) {
			t.Errorf("%s: kind %d, %+v, %v; want %+v", name, kind, gotFrames, err, frames)
		}
		for field, lim := range map[string]Limits{
			"memory": {99, 6, 6, 2}, "pixels": {100, 5, 6, 2}, "number": {100, 6, 5, 2}, "repeat": {100, 6, 6, 1},
		} {
			if err := ParseFrames(body, true, lim, &gotFrames); !errors.Is(err, ErrGarbage) {
				t.Errorf("%s: frames beyond the limit of %s: %v", name, field, err)
			}
		}
		if kind, body := next(); kind != KindFree || len(body) != 0 {
			t.Errorf("%s: kind %d, body %q", name, kind, body)
		}
		if _, _, err := reader.Next(); err == nil {
			t.Errorf("%s: a message after the last", name)
		}
	}
}

// hesitant fails for the moment before every byte.
type hesitant struct {
	r   io.Reader
	was bool
}

func (h *hesitant) Read(p []byte) (int, error) {
	if h.was = !h.was; h.was {
		return 0, os.ErrDeadlineExceeded
	}
	return h.r.Read(p[:1])
}

func TestGarbageIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"text":    "hello world, this is no message",
		"version": "SD\x02\x01\x00\x00\x00\x00",
		"kind":    "SD\x01\x63\x00\x00\x00\x00",
		"length":  "SD\x01\x01\xff\xff\xff\xff",
	} {
		if _, _, err := NewReader(bytes.NewReader([]byte(text))).Next(); !errors.Is(err, ErrGarbage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := NewReader(bytes.NewReader([]byte("SD\x01\x01\x05\x00\x00\x00ab"))).Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
	if err := Write(io.Discard, KindRequest, make([]byte, MaxBody+1)); err == nil {
		t.Error("a body above the limit was sent")
	}
	if err := ParseJSON([]byte(`{"path":"a","more":1}`), &Request{}); !errors.Is(err, ErrGarbage) {
		t.Errorf("an unknown field: %v", err)
	}
}

// Whatever a child writes, what is accepted lies within the limits, and nothing larger than a message is allocated.
func FuzzMessages(f *testing.F) {
	var pipe bytes.Buffer
	_ = WriteJSON(&pipe, KindDone, Done{Codec: "avc1", Frames: 3})
	f.Add(pipe.Bytes())
	pipe.Reset()
	_ = Write(&pipe, KindFrames, Frames{Height: 2, Width: 3, Frames: []Frame{{Number: 1, Repeat: 1}}}.Append(nil))
	f.Add(pipe.Bytes())
	f.Add([]byte("SD\x01\x04\x14\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		reader := NewReader(bytes.NewReader(text))
		lim := Limits{Memory: 1 << 20, Pixels: 1 << 12, Number: 1000, Repeat: 3}
		var frames Frames
		for {
			kind, body, err := reader.Next()
			if err != nil {
				return
			}
			if len(body) > MaxBody || kind == 0 || kind >= kinds {
				t.Fatalf("kind %d, %d bytes", kind, len(body))
			}
			var done Done
			_ = ParseJSON(body, &done)
			if ParseFrames(body, true, lim, &frames) != nil {
				continue
			}
			size := uint64(frames.Height) * uint64(frames.Width) * 3 * uint64(len(frames.Frames))
			if frames.Height < 1 || frames.Width < 1 || frames.Offset+size > lim.Memory || len(frames.Frames) == 0 {
				t.Fatalf("accepted %+v", frames)
			}
			for i, x := range frames.Frames {
				if x.Number < 0 || x.Number >= lim.Number || x.Repeat < 1 || x.Repeat > lim.Repeat || i > 0 && x.Number <= frames.Frames[i-1].Number {
					t.Fatalf("accepted %+v", frames)
				}
			}
			if again := frames.Append(nil); len(again) != len(body) {
				t.Fatalf("%d bytes read, %d written", len(body), len(again))
			}
		}
	})
}
