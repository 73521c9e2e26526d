package synth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"gocv.io/x/gocv"
)

// Videos are HuffYUV in AVI: in OpenCV 4.6 it stores RGB without loss, so
// drawn and decoded frames are equal bit for bit, and an impossible video
// differs from its twin by nothing but the event. The lossy codecs leave marks
// at 64 px (4:2:0 colour: 29–30 dB for H.264, MPEG-4 and MJPEG), and what they
// predict between frames would give the event away. AVI holds no time stamps
// or random numbers, so equal seeds give equal bytes; Matroska does not.
//
// Processor time per clip of 64×64×32, writing and reading, and size, beside
// the other lossless ones: HuffYUV 2 ms, 8 ms, 150 kB; FFV1 12 ms, 12 ms,
// 90 kB; PNG in MOV 11 ms, 8 ms, 180 kB.
const (
	codec     = "HFYU"
	extension = ".avi"
)

// encode draws a video, writes it to path, and returns its size in bytes.
func (p *painter) encode(path string, e event, o Options) (size int64, err error) {
	if err := p.setBackground(e.World); err != nil {
		return 0, err
	}
	w, err := gocv.VideoWriterFile(path, codec, o.FPS, o.Size, o.Size, true)
	if err != nil {
		return 0, fmt.Errorf("opening a %s encoder: %w", codec, err)
	}
	if !w.IsOpened() {
		w.Close()
		return 0, fmt.Errorf("OpenCV cannot write %s video here: the codec is missing, or the folder cannot be written", codec)
	}
	for f := range e.Frames {
		if err := p.draw(e.worldAt(f), f); err != nil {
			w.Close()
			return 0, err
		}
		if err := w.Write(p.frame); err != nil {
			w.Close()
			return 0, fmt.Errorf("writing frame %d: %w", f, err)
		}
	}
	if err := w.Close(); err != nil {
		return 0, fmt.Errorf("closing the encoder: %w", err)
	}
	return finish(path, e.Frames)
}

// finish waits until the video is on the disk and checks that it is whole:
// OpenCV tells nobody when the disk is full.
func finish(path string, frames int) (size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := checkAVI(f, info.Size(), frames); err != nil {
		return 0, fmt.Errorf("the file is not whole (%w); is the disk full?", err)
	}
	return info.Size(), nil
}

// checkAVI checks the two things a muxer writes last: the length in the RIFF
// header, and the index at the end, 16 bytes per frame.
func checkAVI(r io.ReaderAt, size int64, frames int) error {
	const chunkHeader = 8 // four letters, then the length in 4 bytes
	var riff, index [chunkHeader]byte
	if _, err := r.ReadAt(riff[:], 0); err != nil {
		return fmt.Errorf("reading the header: %w", err)
	}
	if got := int64(binary.LittleEndian.Uint32(riff[4:])); string(riff[:4]) != "RIFF" || got+chunkHeader != size {
		return fmt.Errorf("header %q says %d bytes, the file has %d", riff[:4], got+chunkHeader, size)
	}
	start := size - int64(16*frames) - chunkHeader
	if start < chunkHeader {
		return errors.New("too short for its index")
	}
	if _, err := r.ReadAt(index[:], start); err != nil {
		return fmt.Errorf("reading the index: %w", err)
	}
	if got := binary.LittleEndian.Uint32(index[4:]); string(index[:4]) != "idx1" || int(got) != 16*frames {
		return fmt.Errorf("no index of %d frames at its end", frames)
	}
	return nil
}
