package video

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
)

// Kind is one of the closed set of reasons why a file cannot be used. The text of a reason begins with it.
type Kind string

// The kinds.
const (
	Unreadable   Kind = "unreadable"          // no file, or none that FFmpeg can open
	NoVideo      Kind = "no video stream"     // sound, with or without a cover
	NoFrames     Kind = "no frames"           // it opens, and not one frame can be decoded
	Truncated    Kind = "truncated"           // fewer frames than it says it has
	SizeChanges  Kind = "frame size changes"  // on the way
	TooLarge     Kind = "too large"           // in pixels, frames, or memory to decode it
	Crashed      Kind = "crashed the decoder" // the process that decoded it ended
	TimedOut     Kind = "timed out"           // the decoder said nothing for too long
	TooShort     Kind = "too short"           // a still picture, or shorter than a clip
	TooSlow      Kind = "too slow"            // fewer frames per second than clips are to have
	Changed      Kind = "changed"             // since it was inspected
	NotInspected Kind = "not inspected"       // the command ended first
)

// Kinds lists them all.
func Kinds() []Kind {
	return []Kind{Unreadable, NoVideo, NoFrames, Truncated, SizeChanges, TooLarge, Crashed, TimedOut, TooShort, TooSlow, Changed, NotInspected}
}

func knownKind(k Kind) bool { return slices.Contains(Kinds(), k) }

// FileError is a file that could not be read, and why. Its text names both.
type FileError struct {
	Path   string
	Kind   Kind
	Reason string // begins with Kind
	System error  // what the operating system answered, where that is why

	passing bool // it may be otherwise within the hour
}

func (e *FileError) Error() string { return fmt.Sprintf("video %q: %s", e.Path, e.Reason) }
func (e *FileError) Unwrap() error { return e.System }

// ofTheHour tells whether the fault need not be the file's: with its bytes as they are, a second look may find none.
func (e *FileError) ofTheHour() bool {
	return e.passing || e.System != nil || e.Kind == NotInspected || e.Kind == TimedOut
}

// ofTheMachine is err, but of a decoder that was killed from outside the machine's: the video must not be left out for it.
func ofTheMachine(err error) error {
	var bad *FileError
	if errors.As(err, &bad) && bad.passing {
		return &DecoderError{errors.New(err.Error())}
	}
	return err
}

// fault makes a FileError whose reason is the kind and what follows it, punctuation included.
func fault(path string, kind Kind, format string, args ...any) *FileError {
	return &FileError{Path: path, Kind: kind, Reason: string(kind) + fmt.Sprintf(format, args...)}
}

// refused makes the FileError of a file that the operating system does not let be read; what is where in it, if not all of
// it. It leaves the path out of the system's words.
func refused(path, what string, err error) *FileError {
	var of *os.PathError
	if errors.As(err, &of) {
		err = of.Err
	}
	f := fault(path, Unreadable, ": %s%v", what, err)
	var number syscall.Errno
	if errors.As(err, &number) {
		f.System = number
	}
	return f
}
