package video

import (
	"fmt"
	"slices"
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
}

func (e *FileError) Error() string { return fmt.Sprintf("video %q: %s", e.Path, e.Reason) }

// fault makes a FileError whose reason is the kind and what follows it, punctuation included.
func fault(path string, kind Kind, format string, args ...any) *FileError {
	return &FileError{path, kind, string(kind) + fmt.Sprintf(format, args...)}
}
