package video

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// writeFrames makes a folder of images; frame i is of one grey, 20i, but for a column at the left edge, which is red.
func writeFrames(t *testing.T, folder, pattern string, frames, height, width int) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range frames {
		img := image.NewRGBA(image.Rect(0, 0, width, height))
		for y := range height {
			for x := range width {
				img.Set(x, y, color.Gray{uint8(20 * i)})
			}
			img.Set(0, y, color.RGBA{255, 0, 0, 255})
		}
		writeImage(t, filepath.Join(folder, fmt.Sprintf(pattern, i+1)), img)
	}
}

func writeImage(t *testing.T, path string, img image.Image) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(png.Encode(f, img), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestReadFolderOfFrames(t *testing.T) {
	pool := NewPool(PoolOptions{Size: 1})
	defer pool.Close()
	for _, pattern := range []string{"scene_%03d.png", "%d.png"} { // the second sorts 10 before 2 as text
		folder := filepath.Join(t.TempDir(), "scene")
		writeFrames(t, folder, pattern, 12, 8, 8)
		if err := os.WriteFile(filepath.Join(folder, "status.json"), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := pool.ReadFrames(t.Context(), folder, ReadOptions{FrameStep: 3, First: 1, MaxFrames: 3})
		if err != nil {
			t.Fatal(err)
		}
		if c.Frames != 3 || c.Height != 8 || c.Width != 8 || !c.More {
			t.Fatalf("%s: %d frames of %dx%d, more %t, want 3 of 8x8 and more", pattern, c.Frames, c.Width, c.Height, c.More)
		}
		for i, number := range []int{1, 4, 7} {
			pix := c.Pix[i*8*8*3:]
			if want := uint8(20 * number); !slices.Equal(pix[:6], []uint8{255, 0, 0, want, want, want}) {
				t.Errorf("%s: frame %d begins with %v, want red, then grey %d", pattern, number, pix[:6], want)
			}
			if c.Times[i] != float64(number)/15 {
				t.Errorf("%s: frame %d at %g s, want at 15 a second", pattern, number, c.Times[i])
			}
		}
		if n, err := pool.CountFrames(t.Context(), folder); n != 12 || err != nil {
			t.Errorf("%d frames counted, %v, want 12", n, err)
		}
	}
}

// The largest centred square leaves the edges out; the whole frame keeps them.
func TestReadWholeFrames(t *testing.T) {
	pool := NewPool(PoolOptions{Size: 1})
	defer pool.Close()
	folder := t.TempDir()
	writeFrames(t, folder, "%d.png", 2, 8, 16)
	for whole, red := range map[bool]bool{false: false, true: true} {
		c, err := pool.ReadFrames(t.Context(), folder, ReadOptions{Size: 8, Whole: whole})
		if err != nil {
			t.Fatal(err)
		}
		if c.Height != 8 || c.Width != 8 || (c.Pix[0] > 100) != red {
			t.Errorf("whole %t: %dx%d, the left edge has red %d", whole, c.Width, c.Height, c.Pix[0])
		}
	}
}

func TestFolderOfFramesRefuses(t *testing.T) {
	pool := NewPool(PoolOptions{Size: 1})
	defer pool.Close()
	for want, spoil := range map[string]func(folder string) error{
		"no frames: a folder without .png files": func(folder string) error {
			return errors.Join(os.Remove(filepath.Join(folder, "1.png")), os.Remove(filepath.Join(folder, "2.png")), os.Remove(filepath.Join(folder, "3.png")))
		},
		"frame size changes: 8x8 until frame 3, then 9x8": func(folder string) error {
			writeImage(t, filepath.Join(folder, "9.png"), image.NewGray(image.Rect(0, 0, 9, 8)))
			return nil
		},
		"unreadable: link.png is not a regular file": func(folder string) error { return os.Symlink("1.png", filepath.Join(folder, "link.png")) },
		"unreadable: frame 0 (0.png): png: invalid": func(folder string) error {
			return os.WriteFile(filepath.Join(folder, "0.png"), []byte("#!/bin/sh and more than a few bytes of it"), 0o644)
		},
		"unreadable: frame 1 (2.png): damaged": func(folder string) error {
			path := filepath.Join(folder, "2.png")
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for i := len(data) / 2; i < len(data); i++ { // the head stays
				data[i] ^= 0x55
			}
			return os.WriteFile(path, data, 0o644)
		},
		"too large: frames of 30000x30000": func(folder string) error {
			path := filepath.Join(folder, "1.png")
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			copy(data[16:], pngHead(30000, 30000))
			return os.WriteFile(path, data, 0o644)
		},
	} {
		folder := t.TempDir()
		writeFrames(t, folder, "%d.png", 3, 8, 8)
		if err := spoil(folder); err != nil {
			t.Fatal(err)
		}
		_, err := pool.ReadFrames(t.Context(), folder, ReadOptions{Size: 8})
		var bad *FileError
		if !errors.As(err, &bad) || !strings.Contains(bad.Reason, want) {
			t.Errorf("got %v, want a FileError with %q", err, want)
		}
	}
}

// pngHead is the body of an IHDR chunk, 8-bit RGB, and its checksum.
func pngHead(width, height uint32) []byte {
	var b strings.Builder
	f := png.Encoder{CompressionLevel: png.NoCompression}
	if err := f.Encode(&b, image.NewNRGBA(image.Rect(0, 0, int(width), 1))); err != nil {
		panic(err)
	}
	head := []byte(b.String())[12:29] // "IHDR", body
	head[8], head[9], head[10], head[11] = byte(height>>24), byte(height>>16), byte(height>>8), byte(height)
	return binary.BigEndian.AppendUint32(head[4:], crc32.ChecksumIEEE(head))
}

// Names that differ only in how numbers are padded keep their order; the order is one.
func TestCompareNumbered(t *testing.T) {
	names := []string{"frame_10.png", "frame_9.png", "frame_1.png", "a.png", "frame_09.png", "frame.png"}
	slices.SortFunc(names, CompareNumbered)
	if want := []string{"a.png", "frame.png", "frame_1.png", "frame_09.png", "frame_9.png", "frame_10.png"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a0-2_]{0,5}`)
		a, b, c := name.Draw(t, "a"), name.Draw(t, "b"), name.Draw(t, "c")
		if CompareNumbered(a, b) != -CompareNumbered(b, a) || (CompareNumbered(a, b) == 0) != (a == b) {
			t.Fatalf("%q and %q: %d one way, %d the other", a, b, CompareNumbered(a, b), CompareNumbered(b, a))
		}
		if CompareNumbered(a, b) < 0 && CompareNumbered(b, c) < 0 && CompareNumbered(a, c) >= 0 {
			t.Fatalf("%q before %q before %q, but not the first before the last", a, b, c)
		}
	})
}
