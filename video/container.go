package video

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"regexp"
	"strings"
)

// container is what the first bytes of a file say it is. Only these few are handed to FFmpeg: its other
// formats include playlists and scripts (HLS, DASH, concat) that name further files and hosts, and a file
// called clip.mp4 may well hold one.
type container struct {
	name    string   // "mp4", "matroska", "avi", "gif", "mpeg"
	size    int64    // bytes
	codec   string   // where the container names it in plain text, else ""
	problem *problem // why it holds no video, where the container shows it, else nil
	start   float64  // seconds; time stamp of the first frame, where the container counts its duration from 0
	counts  bool     // its header holds a count of frames, which OpenCV will not read past
}

// problem is a reason that names no file yet.
type problem struct {
	kind Kind
	text string // follows the kind, punctuation included
}

func (p *problem) of(path string) *FileError { return fault(path, p.kind, "%s", p.text) }

// Bounds of what is read to tell containers apart. Track headers stand in the first kilobytes of a Matroska
// file; an MP4's moov box grows with its length, about 10 bytes a frame.
const (
	headBytes    = 64 << 10
	maxMoovBytes = 64 << 20
	maxTopBoxes  = 1 << 16
)

// identify reads just enough of a file, or of the part of one that is a video, to know its container. The error is a
// *FileError.
func identify(path string, offset, length int64) (container, error) {
	unreadable := func(format string, args ...any) (container, error) {
		return container{}, fault(path, Unreadable, ": "+format, args...)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return unreadable("no such file")
	case err != nil:
		return unreadable("%v", errors.Unwrap(err))
	case !info.Mode().IsRegular():
		// A named pipe would block for ever, a device may hold anything.
		return unreadable("not a regular file")
	case info.Size() == 0:
		return unreadable("the file is empty")
	}
	f, err := os.Open(path)
	if err != nil {
		return unreadable("%v", errors.Unwrap(err))
	}
	defer f.Close()
	if length == 0 {
		length = info.Size()
	}
	if offset < 0 || length < 0 || offset > info.Size() || length > info.Size()-offset {
		return unreadable("it was to lie at byte %d, %d bytes long, and the file has %d", offset, length, info.Size())
	}
	part := io.NewSectionReader(f, offset, length)
	head := make([]byte, headBytes)
	n, err := io.ReadFull(part, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return unreadable("%v", err)
	}
	c := classify(head[:n])
	c.size = length
	switch c.name {
	case "":
		return unreadable("not an MP4, MOV, Matroska, WebM, AVI, GIF or MPEG file (it begins with %q)", head[:min(n, 12)])
	case "mp4":
		c.problem = mp4Problem(part, c.size)
	}
	return c, nil
}

var matroskaCodec = regexp.MustCompile(`V_[A-Z0-9_/]+`)

// matroskaCluster is the element that holds frames; tracks are described before the first.
const matroskaCluster = "\x1f\x43\xb6\x75"

// classify knows a container by its magic number.
func classify(head []byte) container {
	at := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	switch {
	case at(4, "ftyp"), at(4, "moov"), at(4, "mdat"), at(4, "wide"), at(4, "free"), at(4, "skip"), at(4, "styp"):
		return container{name: "mp4", counts: true} // and QuickTime
	case at(0, "\x1a\x45\xdf\xa3"):
		c := container{name: "matroska"} // and WebM
		tracks, cluster, whole := bytes.Cut(head, []byte(matroskaCluster))
		c.start = matroskaStart(tracks, cluster)
		if id := matroskaCodec.Find(tracks); id != nil {
			c.codec = strings.ToLower(strings.TrimPrefix(string(id), "V_"))
		} else if whole {
			c.problem = &problem{NoVideo, ""}
		}
		return c
	case at(0, "RIFF") && at(8, "AVI "):
		return container{name: "avi", counts: true}
	case at(0, "GIF87a"), at(0, "GIF89a"):
		return container{name: "gif", codec: "gif"}
	case at(0, "\x00\x00\x01\xba"), at(0, "\x00\x00\x01\xb3"):
		return container{name: "mpeg"}
	}
	return container{}
}

// matroskaStart is the time stamp of the first cluster, in seconds: what a recording that was cut begins with. 0 where
// it is not to be seen.
func matroskaStart(tracks, cluster []byte) float64 {
	const (
		scaleID = "\x2a\xd7\xb1" // nanoseconds per unit of time
		timeID  = 0xe7           // the first element of a cluster, but for a checksum
		sumID   = 0xbf           // of six bytes, head and all
	)
	number := func(b []byte) (uint64, bool) { // a size of one byte, then as many bytes of an unsigned number
		if len(b) < 1 || b[0] < 0x81 || b[0] > 0x88 || len(b) < 1+int(b[0]&0x7f) {
			return 0, false
		}
		n := uint64(0)
		for _, digit := range b[1 : 1+int(b[0]&0x7f)] {
			n = n<<8 | uint64(digit)
		}
		return n, true
	}
	scale := uint64(1e6) // unless the file says another
	if i := bytes.Index(tracks, []byte(scaleID)); i >= 0 {
		if n, ok := number(tracks[i+len(scaleID):]); ok && n > 0 {
			scale = n
		}
	}
	if len(cluster) == 0 || cluster[0] == 0 {
		return 0
	}
	cluster = cluster[min(len(cluster), bits.LeadingZeros8(cluster[0])+1):] // the bytes of its size
	if len(cluster) > 6 && cluster[0] == sumID {
		cluster = cluster[6:]
	}
	if len(cluster) < 2 || cluster[0] != timeID {
		return 0
	}
	n, ok := number(cluster[1:])
	start := float64(n) * float64(scale) / 1e9
	if !ok || !within(start, 0, maxTime) {
		return 0
	}
	return start
}

// mp4Problem walks the top-level boxes (ISO/IEC 14496-12, 4.2) to the movie header and looks for a video track.
func mp4Problem(f io.ReaderAt, size int64) *problem {
	unreadable := func(format string, args ...any) *problem {
		return &problem{Unreadable, ": " + fmt.Sprintf(format, args...)}
	}
	var header [16]byte
	for offset, boxes := int64(0), 0; boxes < maxTopBoxes; boxes++ {
		if n, _ := f.ReadAt(header[:], offset); n < 8 {
			return unreadable("no moov box (an unfinished or cut-off file)")
		}
		length, body := int64(binary.BigEndian.Uint32(header[:4])), int64(8)
		switch length {
		case 0: // to the end of the file
			length = size - offset
		case 1:
			length, body = int64(binary.BigEndian.Uint64(header[8:])), 16
		}
		if length < body {
			return unreadable("a damaged box header")
		}
		if string(header[4:8]) == "moov" {
			if length > maxMoovBytes {
				return &problem{TooLarge, fmt.Sprintf(": a moov box of %d bytes (limit %d)", length, maxMoovBytes)}
			}
			if length > size-offset {
				return unreadable("the moov box is cut off")
			}
			moov := make([]byte, length)
			if _, err := f.ReadAt(moov, offset); err != nil {
				return unreadable("%v", err)
			}
			if !hasVideoTrack(moov) {
				return &problem{NoVideo, ""}
			}
			return nil
		}
		if length > size-offset {
			return unreadable("no moov box (an unfinished or cut-off file)")
		}
		offset += length
	}
	return unreadable("more than %d boxes", maxTopBoxes)
}

// hasVideoTrack looks for a handler box of type vide: 4 bytes of name, 4 of version and flags, 4 predefined.
// A moov box compressed into cmov hides its tracks, so it is left to FFmpeg.
func hasVideoTrack(moov []byte) bool {
	if bytes.Contains(moov, []byte("cmov")) {
		return true
	}
	for {
		i := bytes.Index(moov, []byte("hdlr"))
		if i < 0 || len(moov) < i+16 {
			return false
		}
		if string(moov[i+12:i+16]) == "vide" {
			return true
		}
		moov = moov[i+4:]
	}
}
