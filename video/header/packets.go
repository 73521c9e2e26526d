package header

import (
	"bytes"
	"encoding/binary"
)

// What the packets of codecs that need no state say of the frame size.

// vp8Size reads a key frame's header (RFC 6386, 9.1).
func vp8Size(p []byte) (width, height int, ok bool) {
	if len(p) < 10 || p[0]&1 != 0 || p[3] != 0x9d || p[4] != 0x01 || p[5] != 0x2a {
		return 0, 0, false
	}
	const sizeBits = 1<<14 - 1 // two bits above are a scale for display
	return int(binary.LittleEndian.Uint16(p[6:])) & sizeBits, int(binary.LittleEndian.Uint16(p[8:])) & sizeBits, true
}

// vp9Size reads an uncompressed header (VP9 bitstream specification, 6.2) that states a size: that of a key frame, of
// another frame without references, or of one that is as large as none of its references.
func vp9Size(p []byte) (width, height int, ok bool) {
	b := bitReader{data: p}
	if b.bits(2) != 2 { // frame marker
		return 0, 0, false
	}
	profile := b.bits(1) | b.bits(1)<<1
	if profile == 3 {
		b.skip(1)
	}
	if b.bits(1) == 1 { // shows a frame once more
		return 0, 0, false
	}
	inter, shown, resilient := b.bits(1) == 1, b.bits(1) == 1, b.bits(1) == 1
	alone := !inter // refers to no other frame
	if inter && !shown {
		alone = b.bits(1) == 1
	}
	if inter && !resilient {
		b.skip(2)
	}
	if alone {
		const syncCode = 0x498342
		if b.bits(24) != syncCode {
			return 0, 0, false
		}
		if !inter || profile > 0 {
			vp9Colours(&b, profile)
		}
		if inter {
			b.skip(8)
		}
	} else {
		b.skip(8 + 3*(3+1)) // what it refreshes, what it refers to
		for range 3 {
			if b.bits(1) == 1 { // as large as this one
				return 0, 0, false
			}
		}
	}
	width, height = int(b.bits(16))+1, int(b.bits(16))+1
	return width, height, !b.ended
}

func vp9Colours(b *bitReader, profile uint32) {
	if profile >= 2 {
		b.skip(1) // bit depth
	}
	const rgb = 7
	if b.bits(3) != rgb {
		b.skip(1) // range
		if profile&1 == 1 {
			b.skip(3) // subsampling
		}
	} else if profile&1 == 1 {
		b.skip(1)
	}
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

// mpeg4Size reads a video object layer header (ISO/IEC 14496-2, 6.2.3).
func mpeg4Size(p []byte) (width, height int, ok bool) {
	for {
		i := bytes.Index(p, []byte{0, 0, 1})
		if i < 0 || len(p) < i+4 {
			return 0, 0, false
		}
		p = p[i+3:]
		if p[0]&0xf0 == 0x20 {
			break
		}
		if p[0] == 0xb6 { // the picture itself: no header follows
			return 0, 0, false
		}
	}
	b := bitReader{data: p[1:]}
	b.skip(1 + 8) // random access, kind of object
	version := uint32(1)
	if b.bits(1) == 1 {
		version = b.bits(4)
		b.skip(3)
	}
	const extended = 15
	if b.bits(4) == extended {
		b.skip(8 + 8)
	}
	if b.bits(1) == 1 { // control parameters
		b.skip(2 + 1)
		if b.bits(1) == 1 {
			b.skip(16 + 16 + 16 + 3 + 12 + 16) // buffer sizes and rates, with marker bits
		}
	}
	const rectangle, gray = 0, 3
	shape := b.bits(2)
	if shape == gray && version != 1 {
		b.skip(4)
	}
	b.skip(1)
	ticks := b.bits(16)
	b.skip(1)
	if b.bits(1) == 1 { // fixed rate: as many bits as ticks-1 needs
		n := 1
		for ticks > 1<<n {
			n++
		}
		b.skip(n)
	}
	if shape != rectangle {
		return 0, 0, false
	}
	b.skip(1)
	width = int(b.bits(13))
	b.skip(1)
	height = int(b.bits(13))
	return width, height, !b.ended && width > 0 && height > 0
}

// anyMPEGSize reads what is called MPEG-4, which in an MP4 file may be MPEG-1 or MPEG-2. These use MPEG-4's header codes
// for slices, and never its code of a picture.
func anyMPEGSize(p []byte) (width, height int, ok bool) {
	if bytes.Contains(p, []byte{0, 0, 1, 0xb6}) {
		return mpeg4Size(p)
	}
	return mpegSize(p)
}

// h263Size reads a picture header (ITU-T H.263, 5.1).
func h263Size(p []byte) (width, height int, ok bool) {
	b := bitReader{data: p}
	const startCode = 1 << 5 // in 22 bits
	if b.bits(22) != startCode {
		return 0, 0, false
	}
	b.skip(8 + 5) // time; markers and displays
	const extended, custom = 7, 6
	format := b.bits(3)
	if format == extended {
		if b.bits(3) != 1 { // the optional part, with the format, stands in some pictures only
			return 0, 0, false
		}
		format = b.bits(3)
		b.skip(15 + 9)
		if b.bits(1) == 1 {
			b.skip(2)
		}
		if format == custom {
			b.skip(4)
			width = (int(b.bits(9)) + 1) * 4
			b.skip(1)
			height = int(b.bits(9)) * 4
			return width, height, !b.ended && height > 0
		}
	}
	sizes := [8][2]int{1: {128, 96}, 2: {176, 144}, 3: {352, 288}, 4: {704, 576}, 5: {1408, 1152}}
	size := sizes[format]
	return size[0], size[1], !b.ended && size[0] > 0
}

// jpegSize reads the frame header of a picture (ITU-T T.81, B.2.2), past the segments before it.
func jpegSize(p []byte) (width, height int, ok bool) {
	const begin, scan = 0xd8, 0xda
	if len(p) < 2 || p[0] != 0xff || p[1] != begin {
		return 0, 0, false
	}
	for p = p[2:]; len(p) >= 4 && p[0] == 0xff; {
		switch marker := p[1]; {
		case marker == 0xff: // filling
			p = p[1:]
			continue
		case marker == scan:
			return 0, 0, false
		case marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc: // the others hold tables
			if len(p) < 9 {
				return 0, 0, false
			}
			width, height = int(binary.BigEndian.Uint16(p[7:])), int(binary.BigEndian.Uint16(p[5:]))
			return width, height, width > 0 && height > 0
		}
		p = p[min(len(p), 2+int(binary.BigEndian.Uint16(p[2:]))):]
	}
	return 0, 0, false
}

// jpeg2000Size reads the size segment of a codestream (ITU-T T.800, A.5.1), in a box or bare.
func jpeg2000Size(p []byte) (width, height int, ok bool) {
	i := bytes.Index(p, []byte{0xff, 0x4f, 0xff, 0x51})
	if i < 0 || len(p) < i+24 {
		return 0, 0, false
	}
	number := func(at int) int { return int(binary.BigEndian.Uint32(p[i+at:])) }
	width, height = number(8)-number(16), number(12)-number(20)
	return width, height, width > 0 && height > 0
}

// pngSize reads a picture's first chunk (ISO/IEC 15948, 11.2.2).
func pngSize(p []byte) (width, height int, ok bool) {
	if len(p) < 24 || string(p[:8]) != "\x89PNG\r\n\x1a\n" || string(p[12:16]) != "IHDR" {
		return 0, 0, false
	}
	return int(binary.BigEndian.Uint32(p[16:])), int(binary.BigEndian.Uint32(p[20:])), true
}

// proresSize reads a frame header (SMPTE RDD 36, 5.1).
func proresSize(p []byte) (width, height int, ok bool) {
	if len(p) < 20 || string(p[4:8]) != "icpf" {
		return 0, 0, false
	}
	width, height = int(binary.BigEndian.Uint16(p[16:])), int(binary.BigEndian.Uint16(p[18:]))
	return width, height, width > 0 && height > 0
}

// dnxSize reads a frame header (SMPTE ST 2019-1, 8).
func dnxSize(p []byte) (width, height int, ok bool) {
	if len(p) < 0x1c || p[0] != 0 || p[1] != 0 {
		return 0, 0, false
	}
	width, height = int(binary.BigEndian.Uint16(p[0x1a:])), int(binary.BigEndian.Uint16(p[0x18:]))
	return width, height, width > 0 && height > 0
}
