package header

// av1Sizes reads AV1 (AV1 Bitstream & Decoding Process Specification, version 1.0.0 with errata 1). A sequence header
// names the largest frame size, and a frame header may name another. What a frame takes over from its references has
// been seen with them.
type av1Sizes struct {
	known bool // a sequence header has been read

	reduced, timed        bool // of a still picture; frames have times of decoding, and their headers are not read
	equalTimes            bool
	widthBits, heightBits int
	size                  [2]int // pixels
	screen, integer       uint32 // forced values, or choose
	idBits, deltaBits     int    // of frames; 0: they have none
	orderBits             int    // 0: order is not told
}

const av1Choose = 2 // SELECT_SCREEN_CONTENT_TOOLS, SELECT_INTEGER_MV

func (s *av1Sizes) read(p []byte) (width, height int, ok bool) {
	for len(p) > 0 { // 5.3: units of a header, a size and that many bytes
		kind, extension, sized := p[0]>>3&0xf, p[0]>>2&1, p[0]>>1&1
		header := 1 + int(extension)
		if len(p) < header {
			return width, height, ok
		}
		layered := extension == 1 && p[1]>>3&3 != 0 // of a spatial layer above the first
		p = p[header:]
		if sized == 1 {
			n, length := leb128(p)
			if length == 0 || n > uint64(len(p)-length) {
				return width, height, ok
			}
			p = p[length:]
			if !layered {
				width, height, ok = s.unit(kind, p[:n], width, height, ok)
			}
			p = p[n:]
			continue
		}
		if !layered {
			width, height, ok = s.unit(kind, p, width, height, ok)
		}
		return width, height, ok
	}
	return width, height, ok
}

// unit takes note of one unit, and returns the size as it is known after it.
func (s *av1Sizes) unit(kind byte, p []byte, width, height int, ok bool) (int, int, bool) {
	const sequenceHeader, frameHeader, frame = 1, 3, 6
	switch kind {
	case sequenceHeader:
		if s.sequence(p) {
			return s.size[0], s.size[1], true
		}
	case frameHeader, frame:
		if w, h, stated := s.frame(p); stated {
			return w, h, true
		}
	}
	return width, height, ok
}

// leb128 reads a number of seven bits a byte (4.10.5). Its length is 0 where there is none.
func leb128(p []byte) (n uint64, length int) {
	for i := range min(len(p), 8) {
		n |= uint64(p[i]&0x7f) << (7 * i)
		if p[i]&0x80 == 0 {
			return n, i + 1
		}
	}
	return 0, 0
}

// sequence reads a sequence header (5.5.1).
func (s *av1Sizes) sequence(p []byte) bool {
	b := bitReader{data: p}
	n := av1Sizes{known: true, screen: av1Choose, integer: av1Choose}
	b.skip(3 + 1) // profile, still picture
	n.reduced = b.bits(1) == 1
	if n.reduced {
		b.skip(5)
	} else {
		delayBits := 0
		if b.bits(1) == 1 {
			b.skip(32 + 32)
			if n.equalTimes = b.bits(1) == 1; n.equalTimes {
				b.exp()
			}
			if n.timed = b.bits(1) == 1; n.timed {
				delayBits = int(b.bits(5)) + 1
				b.skip(32 + 5 + 5)
			}
		}
		delayed := b.bits(1) == 1
		for range b.bits(5) + 1 { // operating points
			b.skip(12)
			if b.bits(5) > 7 {
				b.skip(1)
			}
			if n.timed && b.bits(1) == 1 {
				b.skip(2*delayBits + 1)
			}
			if delayed && b.bits(1) == 1 {
				b.skip(4)
			}
		}
	}
	n.widthBits, n.heightBits = int(b.bits(4))+1, int(b.bits(4))+1
	n.size = [2]int{int(b.bits(n.widthBits)) + 1, int(b.bits(n.heightBits)) + 1}
	if b.ended {
		return false
	}
	if !n.reduced {
		if b.bits(1) == 1 {
			n.deltaBits = int(b.bits(4)) + 2
			n.idBits = int(b.bits(3)) + 1 + n.deltaBits
		}
		b.skip(3 + 4) // tools
		ordered := b.bits(1) == 1
		if ordered {
			b.skip(2)
		}
		if b.bits(1) == 0 {
			n.screen = b.bits(1)
		}
		if n.screen > 0 && b.bits(1) == 0 {
			n.integer = b.bits(1)
		}
		if ordered {
			n.orderBits = int(b.bits(3)) + 1
		}
	}
	*s = n
	return true
}

// frame reads a frame header up to its size (5.9.2), if it states one.
func (s *av1Sizes) frame(p []byte) (width, height int, ok bool) {
	if !s.known || s.reduced || s.timed {
		return 0, 0, false
	}
	b := bitReader{data: p}
	if b.bits(1) == 1 { // shows a frame once more
		return 0, 0, false
	}
	const key, intra, switching = 0, 2, 3
	kind := b.bits(2)
	shown := b.bits(1) == 1
	if !shown {
		b.skip(1)
	}
	resilient := kind == switching || kind == key && shown || b.bits(1) == 1
	b.skip(1)
	screen := s.screen
	if screen == av1Choose {
		screen = b.bits(1)
	}
	if screen == 1 && s.integer == av1Choose {
		b.skip(1)
	}
	b.skip(s.idBits)
	another := kind == switching || b.bits(1) == 1
	if !another {
		return 0, 0, false
	}
	b.skip(s.orderBits)
	alone := kind == key || kind == intra
	if !alone && !resilient {
		b.skip(3)
	}
	const all = 0xff
	refreshed := uint32(all)
	if kind != switching && (kind != key || !shown) {
		refreshed = b.bits(8)
	}
	if (!alone || refreshed != all) && resilient && s.orderBits > 0 {
		for range 8 {
			b.skip(s.orderBits)
		}
	}
	if !alone {
		short := s.orderBits > 0 && b.bits(1) == 1
		if short {
			b.skip(3 + 3)
		}
		for range 7 {
			if !short {
				b.skip(3)
			}
			b.skip(s.deltaBits)
		}
		if !resilient {
			for range 7 {
				if b.bits(1) == 1 { // as large as this reference
					return 0, 0, false
				}
			}
		}
	}
	width, height = int(b.bits(s.widthBits))+1, int(b.bits(s.heightBits))+1
	return width, height, !b.ended
}
