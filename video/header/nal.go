package header

import (
	"bytes"
	"slices"
)

// H.264 and HEVC name the frame size in a sequence parameter set. A file may hold several: a slice names a picture
// parameter set, and that the sequence's. Those that the container holds apart OpenCV puts into the packets of key frames.

// nextUnit cuts the first unit off a packet in Annex B form; without the start code. The unit is nil when none is left.
func nextUnit(p []byte) (unit, rest []byte) {
	startCode := []byte{0, 0, 1}
	i := bytes.Index(p, startCode)
	if i < 0 {
		return nil, nil
	}
	p = p[i+3:]
	if end := bytes.Index(p, startCode); end >= 0 {
		return p[:end], p[end:]
	}
	return p, nil
}

// unitBits reads the payload of a unit, or the beginning of a long one. A 3 after two zeros keeps it free of start codes
// and is no part of it.
func unitBits(p []byte, most int) bitReader {
	p = p[:min(len(p), most)]
	return bitReader{data: bytes.ReplaceAll(p, []byte{0, 0, 3}, []byte{0, 0})}
}

// Bytes of a unit that are looked at. Sequence parameter sets with all their scaling lists are a few hundred.
const (
	setBytes   = 4096
	sliceBytes = 32
)

// parameterSets are those of a packet, or of the stream so far.
type parameterSets struct {
	sequence [32]struct {
		size  [2]int // width, height; pixels
		known bool
	}
	picture [256]struct {
		sequence uint32
		known    bool
	}
}

// addSequence and addPicture keep what is known already.
func (s *parameterSets) addSequence(id uint32, size [2]int, ok bool) {
	if ok && id < uint32(len(s.sequence)) && !s.sequence[id].known {
		s.sequence[id].size, s.sequence[id].known = size, true
	}
}

func (s *parameterSets) addPicture(b bitReader) {
	id, sequence := b.exp(), b.exp()
	if !b.ended && id < uint32(len(s.picture)) && sequence < uint32(len(s.sequence)) && !s.picture[id].known {
		s.picture[id].sequence, s.picture[id].known = sequence, true
	}
}

// adopt takes over what other knows.
func (s *parameterSets) adopt(other *parameterSets) {
	for id, o := range other.sequence {
		if o.known {
			s.sequence[id] = o
		}
	}
	for id, o := range other.picture {
		if o.known {
			s.picture[id] = o
		}
	}
}

// sizeOf is the size of a slice's picture.
func (s *parameterSets) sizeOf(picture uint32) (width, height int, ok bool) {
	if picture >= uint32(len(s.picture)) || !s.picture[picture].known {
		return 0, 0, false
	}
	sequence := s.sequence[s.picture[picture].sequence]
	return sequence.size[0], sequence.size[1], sequence.known
}

// h264Sizes reads ITU-T H.264.
type h264Sizes struct{ sets parameterSets }

func (s *h264Sizes) read(p []byte) (width, height int, ok bool) {
	var had parameterSets // what this packet holds
	for unit, rest := nextUnit(p); unit != nil; unit, rest = nextUnit(rest) {
		if len(unit) < 2 {
			continue
		}
		switch unit[0] & 0x1f { // 7.3.1
		case 7:
			had.addSequence(h264Sequence(unit[1:]))
		case 8:
			had.addPicture(unitBits(unit[1:], setBytes))
		case 1, 2, 5: // 7.3.3
			s.sets.adopt(&had)
			b := unitBits(unit[1:], sliceBytes)
			b.exp() // first macroblock
			b.exp() // type
			return s.sets.sizeOf(b.exp())
		}
	}
	s.sets.adopt(&had)
	return 0, 0, false
}

// h264Sequence reads a sequence parameter set (7.3.2.1.1).
func h264Sequence(p []byte) (id uint32, size [2]int, ok bool) {
	b := unitBits(p, setBytes)
	profile := b.bits(8)
	b.skip(16) // constraints, level
	id = b.exp()
	chroma := uint32(1)
	switch profile {
	case 100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135:
		if chroma = b.exp(); chroma == 3 {
			b.skip(1)
		}
		b.exp() // bit depths
		b.exp()
		b.skip(1)
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
		b.skip(1)
		b.exp()
		b.exp()
		for range min(b.exp(), 255) {
			b.exp()
		}
	}
	b.exp() // reference frames
	b.skip(1)
	columns, rows := int(b.exp())+1, int(b.exp())+1 // in macroblocks of 16 pixels
	fields := 2 - int(b.bits(1))
	if fields == 2 {
		b.skip(1)
	}
	b.skip(1)
	width, height := 16*columns, 16*rows*fields
	if b.bits(1) == 1 { // what is cut off
		unitX, unitY := 1, fields
		if chroma == 1 || chroma == 2 {
			unitX = 2
		}
		if chroma == 1 {
			unitY *= 2
		}
		width -= unitX * (int(b.exp()) + int(b.exp()))
		height -= unitY * (int(b.exp()) + int(b.exp()))
	}
	return id, [2]int{width, height}, !b.ended && width > 0 && height > 0
}

// hevcSizes reads ITU-T H.265. OpenCV puts the container's parameter sets behind those of the packet, right before the
// slices, where they would overrule them, and before every such slice, also after the stream has long had others. So
// the first of a packet count, and those that the first packet held are not taken again.
type hevcSizes struct {
	sets  parameterSets
	first [][]byte // units of the first packet that hold parameter sets
	begun bool     // first is complete
}

func (s *hevcSizes) read(p []byte) (width, height int, ok bool) {
	const sequence, picture = 33, 34 // 7.4.2.2
	var had parameterSets            // what this packet holds
	for unit, rest := nextUnit(p); unit != nil; unit, rest = nextUnit(rest) {
		if len(unit) < 3 || unit[0]&1 != 0 || unit[1]>>3 != 0 { // of another layer than the base
			continue
		}
		kind := unit[0] >> 1
		slice := kind <= 9 || kind >= 16 && kind <= 21
		switch again := slices.ContainsFunc(s.first, func(u []byte) bool { return bytes.Equal(u, unit) }); {
		case kind == sequence && !again:
			had.addSequence(hevcSequence(unit[2:]))
		case kind == picture && !again:
			had.addPicture(unitBits(unit[2:], setBytes))
		case slice: // 7.3.6.1
			s.sets.adopt(&had)
			s.begun = true
			b := unitBits(unit[2:], sliceBytes)
			b.skip(1) // first of its picture
			if kind >= 16 {
				b.skip(1)
			}
			return s.sets.sizeOf(b.exp())
		}
		if !s.begun && (kind == sequence || kind == picture) && len(s.first) < len(s.sets.sequence)+len(s.sets.picture) {
			s.first = append(s.first, bytes.Clone(unit))
		}
	}
	s.sets.adopt(&had)
	return 0, 0, false
}

// hevcSequence reads a sequence parameter set (7.3.2.2.1).
func hevcSequence(p []byte) (id uint32, size [2]int, ok bool) {
	b := unitBits(p, setBytes)
	b.skip(4)
	layers := int(b.bits(3)) // sub-layers, less one
	b.skip(1)
	const profileBits, levelBits = 88, 8 // 7.3.3
	b.skip(profileBits + levelBits)
	var present [7]struct{ profile, level bool }
	for i := range layers {
		present[i].profile, present[i].level = b.bits(1) == 1, b.bits(1) == 1
	}
	if layers > 0 {
		b.skip(2 * (8 - layers))
	}
	for i := range layers {
		if present[i].profile {
			b.skip(profileBits)
		}
		if present[i].level {
			b.skip(levelBits)
		}
	}
	id = b.exp()
	chroma := b.exp()
	if chroma == 3 {
		b.skip(1)
	}
	width, height := int(b.exp()), int(b.exp())
	if b.bits(1) == 1 { // what is cut off
		unitX, unitY := 1, 1
		if chroma == 1 || chroma == 2 {
			unitX = 2
		}
		if chroma == 1 {
			unitY = 2
		}
		width -= unitX * (int(b.exp()) + int(b.exp()))
		height -= unitY * (int(b.exp()) + int(b.exp()))
	}
	return id, [2]int{width, height}, !b.ended && width > 0 && height > 0
}
