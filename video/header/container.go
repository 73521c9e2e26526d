package header

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"regexp"
	"strings"
)

// Container is what the first bytes of a file say it is.
type Container struct {
	Name   string  // "mp4" (and QuickTime), "matroska" (and WebM), "avi", "gif", "mpeg"
	Size   int64   // bytes
	Codec  string  // where the container names it in plain text, else ""
	Start  float64 // seconds; time stamp of the first frame, where the container counts its duration from 0
	Counts bool    // its header holds a count of frames
}

// What a container shows to be wrong with a file, before any of it is decoded. Other errors of Identify mean that the
// file is damaged or none of the kinds known.
var (
	ErrNoVideo  = errors.New("no video stream")
	ErrTooLarge = errors.New("too large")
)

// Bounds of what is read to tell containers apart. Track headers stand in the first kilobytes of a Matroska
// file; an MP4's moov box grows with its length, about 10 bytes a frame.
const (
	headBytes    = 64 << 10
	maxMoovBytes = 64 << 20
	maxTopBoxes  = 1 << 16
	maxStart     = 1e10 // seconds: 300 years
)

// Identify reads just enough of a file of size bytes to know its container. Only these few are for FFmpeg: its other
// formats include playlists and scripts (HLS, DASH, concat) that name further files and hosts, and a file
// called clip.mp4 may well hold one. Beside an error, the container holds what is known nevertheless.
func Identify(file io.ReaderAt, size int64) (Container, error) {
	head := make([]byte, min(size, headBytes))
	if n, err := file.ReadAt(head, 0); n < len(head) {
		return Container{}, err
	}
	c, err := classify(head)
	c.Size = size
	switch {
	case err != nil:
	case c.Name == "":
		err = fmt.Errorf("not an MP4, MOV, Matroska, WebM, AVI, GIF or MPEG file (it begins with %q)", head[:min(len(head), 12)])
	case c.Name == "mp4":
		err = checkMP4(file, size)
	}
	return c, err
}

var matroskaCodec = regexp.MustCompile(`V_[A-Z0-9_/]+`)

// matroskaCluster is the element that holds frames; tracks are described before the first.
const matroskaCluster = "\x1f\x43\xb6\x75"

// classify knows a container by its magic number. One of no known kind has no name.
func classify(head []byte) (Container, error) {
	at := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	switch {
	case at(4, "ftyp"), at(4, "moov"), at(4, "mdat"), at(4, "wide"), at(4, "free"), at(4, "skip"), at(4, "styp"):
		return Container{Name: "mp4", Counts: true}, nil
	case at(0, "\x1a\x45\xdf\xa3"):
		c := Container{Name: "matroska"}
		tracks, cluster, whole := bytes.Cut(head, []byte(matroskaCluster))
		c.Start = matroskaStart(tracks, cluster)
		if id := matroskaCodec.Find(tracks); id != nil {
			c.Codec = strings.ToLower(strings.TrimPrefix(string(id), "V_"))
		} else if whole {
			return c, ErrNoVideo
		}
		return c, nil
	case at(0, "RIFF") && at(8, "AVI "):
		return Container{Name: "avi", Counts: true}, nil
	case at(0, "GIF87a"), at(0, "GIF89a"):
		return Container{Name: "gif", Codec: "gif"}, nil
	case at(0, "\x00\x00\x01\xba"), at(0, "\x00\x00\x01\xb3"):
		return Container{Name: "mpeg"}, nil
	}
	return Container{}, nil
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
	if !ok || start > maxStart {
		return 0
	}
	return start
}

// checkMP4 walks the top-level boxes (ISO/IEC 14496-12, 4.2) to the movie header and looks for a video track.
func checkMP4(file io.ReaderAt, size int64) error {
	const unfinished = "no moov box (an unfinished or cut-off file)"
	var header [16]byte
	for offset, boxes := int64(0), 0; boxes < maxTopBoxes; boxes++ {
		if n, _ := file.ReadAt(header[:], offset); n < 8 {
			return errors.New(unfinished)
		}
		length, body := int64(binary.BigEndian.Uint32(header[:4])), int64(8)
		switch length {
		case 0: // to the end of the file
			length = size - offset
		case 1:
			length, body = int64(binary.BigEndian.Uint64(header[8:])), 16
		}
		if length < body {
			return errors.New("a damaged box header")
		}
		if string(header[4:8]) == "moov" {
			if length > maxMoovBytes {
				return fmt.Errorf("%w: a moov box of %d bytes (limit %d)", ErrTooLarge, length, maxMoovBytes)
			}
			if length > size-offset {
				return errors.New("the moov box is cut off")
			}
			moov := make([]byte, length)
			if _, err := file.ReadAt(moov, offset); err != nil {
				return err
			}
			if !hasVideoTrack(moov) {
				return ErrNoVideo
			}
			return nil
		}
		if length > size-offset {
			return errors.New(unfinished)
		}
		offset += length
	}
	return fmt.Errorf("more than %d boxes", maxTopBoxes)
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
