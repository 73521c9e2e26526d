package video

import (
	"bytes"
	"encoding/binary"
	"strings"

	"gocv.io/x/gocv"
)

// checkFrameSizes reads a file's packets, undecoded, and refuses one whose codec headers change the frame size.
//
// OpenCV 4.6 sizes its conversion by the first frame. When the size grows it goes on delivering the last
// frame from before, and when it shrinks it reads past the picture's end, in both cases without a word. So
// the change must be found before anything is decoded. Codecs other than H.264, VP8, VP9, MPEG-1 and MPEG-2
// are not looked into.
func checkFrameSizes(path, source, codec string, lim limits, alive func()) error {
	headerSize := sizeParser(codec)
	if headerSize == nil {
		return nil
	}
	capture, err := open(source)
	if err != nil {
		_ = capture.Close()
		return nil // it opened a moment ago: decoding will say what has become of it
	}
	defer capture.Close()
	const undecoded = -1
	capture.Set(gocv.VideoCaptureFormat, undecoded)
	packet := gocv.NewMat()
	defer packet.Close()
	var width, height int
	for number := 0; number < lim.frames && capture.Read(&packet); number++ {
		alive()
		data, err := packet.DataPtrUint8()
		if err != nil || packet.Rows() != 1 {
			return nil // this build of OpenCV does not hand out packets
		}
		w, h, ok := headerSize(data)
		switch {
		case !ok:
		case width == 0:
			width, height = w, h
		case w != width || h != height:
			return fault(path, SizeChanges, ": %dx%d until packet %d, then %dx%d", width, height, number, w, h)
		}
	}
	return nil
}

// sizeParser returns the function that finds the frame size, in pixels, in a packet of a codec; ok is false
// for packets that name none. It is nil for a codec it does not know.
func sizeParser(codec string) func(packet []byte) (width, height int, ok bool) {
	switch strings.ToLower(codec) {
	case "avc1", "avc3", "h264", "x264", "davc", "mpeg4/iso/avc":
		return h264Size
	case "vp8", "vp80":
		return vp8Size
	case "vp9", "vp90", "vp09":
		return vp9Size
	case "mpeg", "mpg1", "mpg2", "mp2v", "mpeg1", "mpeg2":
		return mpegSize
	}
	return nil
}

// vp8Size reads a key frame's header (RFC 6386, 9.1).
func vp8Size(p []byte) (width, height int, ok bool) {
	if len(p) < 10 || p[0]&1 != 0 || p[3] != 0x9d || p[4] != 0x01 || p[5] != 0x2a {
		return 0, 0, false
	}
	const sizeBits = 1<<14 - 1 // two bits above are a scale for display
	return int(binary.LittleEndian.Uint16(p[6:])) & sizeBits, int(binary.LittleEndian.Uint16(p[8:])) & sizeBits, true
}

// mpegSize reads a sequence header (ISO/IEC 13818-2, 6.2.2.1): two numbers of 12 bits.
func mpegSize(p []byte) (width, height int, ok bool) {
	i := bytes.Index(p, []byte{0, 0, 1, 0xb3})
	if i < 0 || len(p) < i+7 {
		return 0, 0, false
	}
	p = p[i+4:]
	return int(p[0])<<4 | int(p[1])>>4, int(p[1]&0xf)<<8 | int(p[2]), true
}

// vp9Size reads a key frame's uncompressed header (VP9 bitstream specification, 6.2).
func vp9Size(p []byte) (width, height int, ok bool) {
	b := bitReader{data: p}
	if b.bits(2) != 2 { // frame marker
		return 0, 0, false
	}
	profile := b.bits(1) | b.bits(1)<<1
	if profile == 3 {
		b.bits(1)
	}
	again, inter := b.bits(1), b.bits(1)
	if again == 1 || inter == 1 { // shows a frame once more, or is no key frame
		return 0, 0, false
	}
	b.bits(2) // show_frame, error_resilient_mode
	if b.bits(24) != 0x498342 {
		return 0, 0, false
	}
	if profile >= 2 {
		b.bits(1) // bit depth
	}
	const rgb = 7
	if b.bits(3) != rgb {
		b.bits(1) // colour range
		if profile&1 == 1 {
			b.bits(3) // subsampling
		}
	} else if profile&1 == 1 {
		b.bits(1)
	}
	width, height = int(b.bits(16))+1, int(b.bits(16))+1
	return width, height, !b.ended
}

// h264Size reads the first sequence parameter set of a packet in Annex B form (ITU-T H.264, 7.3.2.1.1).
func h264Size(p []byte) (width, height int, ok bool) {
	const parameterSet = 7
	for {
		i := bytes.Index(p, []byte{0, 0, 1})
		if i < 0 || len(p) < i+4 {
			return 0, 0, false
		}
		p = p[i+3:]
		if p[0]&0x1f == parameterSet {
			break
		}
	}
	p = p[1:min(len(p), 1024)]
	// A 3 after two zeros keeps the payload free of start codes; it is not part of it.
	b := bitReader{data: bytes.ReplaceAll(p, []byte{0, 0, 3}, []byte{0, 0})}
	profile := b.bits(8)
	b.bits(16) // constraints, level
	b.exp()    // id
	chroma := uint32(1)
	switch profile {
	case 100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135:
		if chroma = b.exp(); chroma == 3 {
			b.bits(1)
		}
		b.exp() // bit depths
		b.exp()
		b.bits(1)
		if b.bits(1) == 1 {
			lists := 8
			if chroma == 3 {
				lists = 12
			}
			for i := range lists {
				if b.bits(1) == 1 {
					b.scalingList(i)
				}
			}
		}
	}
	b.exp() // log2_max_frame_num
	switch b.exp() {
	case 0:
		b.exp()
	case 1:
		b.bits(1)
		b.exp()
		b.exp()
		for range min(b.exp(), 255) {
			b.exp()
		}
	}
	b.exp() // reference frames
	b.bits(1)
	columns, rows := int(b.exp())+1, int(b.exp())+1 // in macroblocks of 16 pixels
	fields := 2 - int(b.bits(1))
	if fields == 2 {
		b.bits(1)
	}
	b.bits(1)
	width, height = 16*columns, 16*rows*fields
	if b.bits(1) == 1 {
		unitX, unitY := 1, fields
		if chroma == 1 || chroma == 2 {
			unitX = 2
		}
		if chroma == 1 {
			unitY *= 2
		}
		width -= unitX * int(b.exp()+b.exp())
		height -= unitY * int(b.exp()+b.exp())
	}
	return width, height, !b.ended && width > 0 && height > 0
}

// bitReader reads numbers from the most significant bit on. Past the end it returns zeros and says so.
type bitReader struct {
	data  []byte
	pos   int // bits read
	ended bool
}

func (b *bitReader) bits(n int) (v uint32) {
	for range n {
		v <<= 1
		if i := b.pos / 8; i < len(b.data) {
			v |= uint32(b.data[i]>>(7-b.pos%8)) & 1
		} else {
			b.ended = true
		}
		b.pos++
	}
	return v
}

// exp reads an unsigned Exp-Golomb number (H.264, 9.1); a signed one takes as many bits.
func (b *bitReader) exp() uint32 {
	zeros := 0
	for b.bits(1) == 0 {
		if zeros++; zeros > 31 || b.ended {
			b.ended = true
			return 0
		}
	}
	return 1<<zeros - 1 + b.bits(zeros)
}

// scalingList passes over list i (H.264, 7.3.2.1.1.1).
func (b *bitReader) scalingList(i int) {
	size := 16
	if i >= 6 {
		size = 64
	}
	last, next := 8, 8
	for range size {
		if next != 0 {
			code := int(b.exp())
			delta := (code + 1) / 2
			if code%2 == 0 {
				delta = -delta
			}
			next = (last + delta + 256) & 0xff
		}
		if next != 0 {
			last = next
		}
	}
}
