package video

import (
	"errors"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/surmise-ml/surmise/video/header"
)

// identify opens a file, or the part of one that is a video, and knows its container (see header.Identify). The error is
// a *FileError; beside it the container holds what is known nevertheless. Length 0 means all of the file.
func identify(path string, offset, length int64) (header.Container, error) {
	unreadable := func(format string, args ...any) (header.Container, error) {
		return header.Container{}, fault(path, Unreadable, ": "+format, args...)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && strings.ContainsRune(path, utf8.RuneError):
		return unreadable("no such file; if its name is not UTF-8, rename it") // such a name is changed on its way here
	case errors.Is(err, os.ErrNotExist):
		return unreadable("no such file")
	case err != nil:
		return header.Container{}, refused(path, "", err)
	case !info.Mode().IsRegular():
		// A named pipe would block for ever, a device may hold anything.
		return unreadable("not a regular file")
	case info.Size() == 0:
		return unreadable("the file is empty")
	}
	f, err := os.Open(path)
	if err != nil {
		return header.Container{}, refused(path, "", err)
	}
	defer f.Close()
	if length == 0 {
		length = info.Size()
	}
	if offset < 0 || length < 0 || offset > info.Size() || length > info.Size()-offset {
		return unreadable("it was to lie at byte %d, %d bytes long, and the file has %d", offset, length, info.Size())
	}
	part := noting{ReaderAt: io.NewSectionReader(f, offset, length)}
	c, err := header.Identify(&part, length)
	switch {
	case part.failed != nil: // whatever a header that could not be read was taken for
		return c, refused(path, "", part.failed)
	case errors.Is(err, header.ErrNoVideo):
		return c, fault(path, NoVideo, "")
	case errors.Is(err, header.ErrTooLarge):
		return c, fault(path, TooLarge, "%s", strings.TrimPrefix(err.Error(), header.ErrTooLarge.Error()))
	case err != nil:
		return c, refused(path, "", err)
	}
	return c, nil
}

// noting remembers the first failure to read, the end of the file apart.
type noting struct {
	io.ReaderAt
	failed error
}

func (n *noting) ReadAt(p []byte, at int64) (int, error) {
	read, err := n.ReaderAt.ReadAt(p, at)
	if err != nil && !errors.Is(err, io.EOF) && n.failed == nil {
		n.failed = err
	}
	return read, err
}
