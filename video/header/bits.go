package header

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

// skip passes over n bits.
func (b *bitReader) skip(n int) {
	b.pos += n
	b.ended = b.ended || b.pos > 8*len(b.data)
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
