package video

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/surmise-ml/surmise/video/source"
)

// contentEnd is how much of either end of a file its fingerprint covers, in bytes: the header, the first frames and, in most
// containers, the index. To read files whole would take as long again as to decode them.
const contentEnd = 64 << 10

// contentOf is a fingerprint of what a video holds, 16 hexadecimal digits: of its size and both of its ends; of a folder of
// frames, of their names and sizes, and both ends of the first and the last.
func contentOf(item source.Item, path string) (string, error) {
	h := sha256.New()
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		length := item.Length
		if length == 0 {
			length = info.Size()
		}
		if err := hashEnds(h, path, item.Offset, length); err != nil {
			return "", err
		}
		return hex.EncodeToString(h.Sum(nil)[:8]), nil
	}
	names, err := FrameFiles(path)
	if err != nil {
		return "", err
	}
	for i, name := range names {
		frame, err := os.Stat(filepath.Join(path, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%q %d\n", name, frame.Size())
		if i == 0 || i == len(names)-1 {
			if err := hashEnds(h, filepath.Join(path, name), 0, frame.Size()); err != nil {
				return "", err
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func hashEnds(h io.Writer, path string, offset, length int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintf(h, "%d\n", length)
	if _, err := io.Copy(h, io.NewSectionReader(f, offset, min(contentEnd, length))); err != nil {
		return err
	}
	_, err = io.Copy(h, io.NewSectionReader(f, offset+max(0, length-contentEnd), min(contentEnd, length)))
	return err
}
