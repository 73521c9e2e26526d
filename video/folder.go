package video

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gocv.io/x/gocv"

	"github.com/surmise-ml/surmise/video/source"
	"github.com/surmise-ml/surmise/video/wire"
)

// FolderFPS is the rate that the frames of a folder are taken to follow one another at: images carry no time. It is
// that of IntPhys, the dataset that comes this way.
const FolderFPS = 15

func isFolder(it source.Item) bool {
	if it.URI != "" || it.Member != "" {
		return false
	}
	info, err := os.Stat(it.Path)
	return err == nil && info.IsDir()
}

// FrameFiles lists the frames of a folder, its files that end in .png, in the order of their names, numbers in them
// compared as numbers: frame_9 before frame_10. A link or folder of such a name is refused: it may lead anywhere.
func FrameFiles(folder string) ([]string, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var names []string
	for {
		entries, err := dir.ReadDir(1024)
		for _, e := range entries {
			switch {
			case !strings.EqualFold(filepath.Ext(e.Name()), ".png"):
			case !e.Type().IsRegular():
				return nil, fmt.Errorf("%s is not a regular file", e.Name())
			case len(names) == defaultLimits.frames:
				return nil, fmt.Errorf("more than %d frames", defaultLimits.frames)
			default:
				names = append(names, e.Name())
			}
		}
		if errors.Is(err, io.EOF) {
			slices.SortFunc(names, CompareNumbered)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// CompareNumbered orders names, runs of digits in them as the numbers they are.
func CompareNumbered(a, b string) int {
	whole := cmp.Compare(a, b) // settles names that differ in leading zeros alone
	for a != "" && b != "" {
		digitsA, digitsB := leadingDigits(a), leadingDigits(b)
		if digitsA == 0 || digitsB == 0 {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		x, y := strings.TrimLeft(a[:digitsA], "0"), strings.TrimLeft(b[:digitsB], "0")
		if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
			return c
		}
		a, b = a[digitsA:], b[digitsB:]
	}
	return cmp.Or(cmp.Compare(len(a), len(b)), whole)
}

func leadingDigits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// scanFolder is scan for a folder of images. It too runs in a decoder process alone: a PNG is as hostile as a video.
// PNG only, because its checksums show damage; a damaged JPEG decodes to something grey.
func scanFolder(r reading) (scanned, error) {
	s := scanned{codec: "png"}
	names, err := FrameFiles(r.path)
	switch {
	case err != nil:
		return s, refused(r.path, "", err)
	case len(names) == 0:
		return s, fault(r.path, NoFrames, ": a folder without .png files")
	case len(names) > r.lim.frames:
		return s, fault(r.path, TooLarge, ": more than %d frames", r.lim.frames)
	}
	for number, name := range names {
		r.alive()
		if s.frames++; !r.want(number) {
			continue
		}
		err := scanImage(r, &s, number, name)
		if errors.Is(err, errStop) {
			s.more = true
			return s, nil
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// scanImage decodes one image, whose size is read from its head before OpenCV sees it.
func scanImage(r reading, s *scanned, number int, name string) error {
	path := filepath.Join(r.path, name)
	unreadable := func(err error) error { return refused(r.path, fmt.Sprintf("frame %d (%s): ", number, name), err) }
	f, err := os.Open(path)
	if err != nil {
		return unreadable(err)
	}
	const headBytes = 64 << 10 // the size stands in the first 33
	head, err := png.DecodeConfig(io.LimitReader(f, headBytes))
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return unreadable(err)
	}
	if err := checkSize(r.path, head.Height, head.Width, r.lim); err != nil {
		return err
	}
	if s.height == 0 {
		s.height, s.width = head.Height, head.Width
	}
	if head.Height != s.height || head.Width != s.width {
		return fault(r.path, SizeChanges, ": %dx%d until frame %d, then %dx%d", s.width, s.height, number, head.Width, head.Height)
	}
	mat := gocv.IMRead(path, gocv.IMReadColor)
	defer mat.Close()
	if mat.Empty() || mat.Rows() != head.Height || mat.Cols() != head.Width || mat.Type() != gocv.MatTypeCV8UC3 {
		if err := readThrough(reading{path: path, alive: r.alive}); err != nil {
			return err
		}
		return unreadable(errors.New("damaged"))
	}
	return r.visit(decoded{number, float64(number) / FolderFPS, &mat})
}

// CountFrames decodes a video to its end and returns how many frames it has. A file that cannot be read to its end is
// a *FileError.
func (p *Pool) CountFrames(ctx context.Context, path string) (int, error) {
	none := []int{math.MaxInt} // beyond any frame: all are decoded, none delivered
	item := itemOf(path)
	done, err := p.decode(ctx, item, wire.Request{Numbers: none, NoPixels: true, Folder: isFolder(item)}, func() {}, func(frame) error { return nil })
	return done.Frames, ofTheMachine(err)
}
