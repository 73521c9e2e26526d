package torch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// DType is the type of a tensor's numbers.
type DType string

// The types that are read.
const (
	Float32  DType = "float32"
	Float64  DType = "float64"
	Float16  DType = "float16"
	BFloat16 DType = "bfloat16"
	Int64    DType = "int64"
	Int32    DType = "int32"
	Int16    DType = "int16"
	Int8     DType = "int8"
	Uint8    DType = "uint8"
	Boolean  DType = "bool"
)

// storageTypes are PyTorch's names of typed storages.
var storageTypes = map[string]DType{
	"FloatStorage": Float32, "DoubleStorage": Float64, "HalfStorage": Float16, "BFloat16Storage": BFloat16,
	"LongStorage": Int64, "IntStorage": Int32, "ShortStorage": Int16, "CharStorage": Int8, "ByteStorage": Uint8, "BoolStorage": Boolean,
}

// Bytes is the size of one number.
func (d DType) Bytes() int {
	switch d {
	case Float64, Int64:
		return 8
	case Float32, Int32:
		return 4
	case Float16, BFloat16, Int16:
		return 2
	}
	return 1
}

// Floating tells whether the numbers are floats.
func (d DType) Floating() bool {
	return d == Float32 || d == Float64 || d == Float16 || d == BFloat16
}

// storage is a stretch of the file that tensors are views of.
type storage struct {
	r       io.ReaderAt
	at      int64 // byte of the file
	n       int64 // numbers
	of      DType
	file    int64 // bytes of the file
	crc     uint32
	checked bool // crc is known
}

// Tensor is a view of a storage: element (i, j, …) is number Offset + i·Strides[0] + j·Strides[1] + … of it.
type Tensor struct {
	DType   DType
	Shape   []int
	Strides []int
	Offset  int
	storage *storage
}

const (
	maxRank = 16
	// A view can repeat numbers, so it can be larger than the file that holds it. So many may be, whatever the file.
	repeatedElements = 1 << 20
	chunkBytes       = 1 << 20
)

// newTensor checks a view against its storage.
func newTensor(s *storage, offset int64, shape, strides []int64) (*Tensor, error) {
	t := &Tensor{DType: s.of, Offset: int(offset), storage: s, Shape: make([]int, len(shape)), Strides: make([]int, len(shape))}
	if len(shape) != len(strides) || len(shape) > maxRank || offset < 0 {
		return nil, fmt.Errorf("tensor of shape %v, strides %v and offset %d", shape, strides, offset)
	}
	size, last := int64(1), offset // last: the furthest number that the view reaches
	for i, d := range shape {
		t.Shape[i], t.Strides[i] = int(d), int(strides[i])
		if d < 0 || strides[i] < 0 || d > 0 && size > math.MaxInt64/8/d {
			return nil, fmt.Errorf("tensor of shape %v and strides %v: negative or too large", shape, strides)
		}
		size *= d
	}
	for i, d := range shape {
		if size == 0 || d == 1 {
			continue
		}
		if strides[i] > (math.MaxInt64-last)/(d-1) {
			return nil, fmt.Errorf("tensor of shape %v and strides %v: too large", shape, strides)
		}
		last += (d - 1) * strides[i]
	}
	switch {
	case size > 0 && last >= s.n:
		return nil, fmt.Errorf("tensor of shape %v, strides %v and offset %d reaches number %d of a storage of %d", shape, strides, offset, last, s.n)
	case size > max(s.file, repeatedElements):
		return nil, fmt.Errorf("tensor of shape %v in a file of %d bytes", shape, s.file)
	}
	return t, nil
}

// Size is the number of elements.
func (t *Tensor) Size() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// dense tells whether the view is a stretch of its storage in row-major order.
func (t *Tensor) dense() bool {
	stride := 1
	for i := len(t.Shape) - 1; i >= 0; i-- {
		if t.Shape[i] != 1 && t.Strides[i] != stride {
			return false
		}
		stride *= t.Shape[i]
	}
	return true
}

// Floats writes the numbers of a floating-point tensor to dst, of Size, row-major. Float64 is rounded to float32; all
// else is exact.
func (t *Tensor) Floats(dst []float32) error {
	if !t.DType.Floating() {
		return fmt.Errorf("tensor of %s, want floating-point numbers", t.DType)
	}
	if len(dst) != t.Size() {
		return fmt.Errorf("tensor of shape %v has %d numbers, room for %d", t.Shape, t.Size(), len(dst))
	}
	if t.DType == Float32 && littleEndian && t.dense() {
		return t.chunks(func(at int64, first, n int) ([]byte, error) {
			b := bytesOf(dst[first : first+n])
			return b, readAt(t.storage.r, b, at)
		})
	}
	return t.each(func(i int, b []byte) { dst[i] = float(t.DType, b) })
}

// Ints writes the numbers of an integer or truth-value tensor to dst, of Size, row-major.
func (t *Tensor) Ints(dst []int64) error {
	if t.DType.Floating() {
		return fmt.Errorf("tensor of %s, want integers", t.DType)
	}
	if len(dst) != t.Size() {
		return fmt.Errorf("tensor of shape %v has %d numbers, room for %d", t.Shape, t.Size(), len(dst))
	}
	return t.each(func(i int, b []byte) { dst[i] = integer(t.DType, b) })
}

// each calls do with every element's index and bytes. A dense view is read chunk by chunk; another one's stretch of the
// storage as a whole.
func (t *Tensor) each(do func(i int, b []byte)) error {
	n, width, s := t.Size(), t.DType.Bytes(), t.storage
	if n == 0 {
		return nil
	}
	if t.dense() {
		room := make([]byte, min(n*width, chunkBytes))
		return t.chunks(func(at int64, first, n int) ([]byte, error) {
			b := room[:n*width]
			err := readAt(s.r, b, at)
			for i := range n {
				do(first+i, b[i*width:])
			}
			return b, err
		})
	}
	last := 0
	for i, d := range t.Shape {
		last += (d - 1) * t.Strides[i]
	}
	b := make([]byte, (last+1)*width)
	if err := readAt(s.r, b, s.at+int64(t.Offset)*int64(width)); err != nil {
		return err
	}
	index := make([]int, len(t.Shape))
	for i := range n {
		at := 0
		for j, k := range index {
			at += k * t.Strides[j]
		}
		do(i, b[at*width:])
		for j := len(index) - 1; j >= 0; j-- {
			if index[j]++; index[j] < t.Shape[j] {
				break
			}
			index[j] = 0
		}
	}
	return nil
}

// chunks has read called for one chunk of a dense view after the other: elements first to first+n-1, from byte at of the
// file. Where the view is a whole storage, what was read is held to the archive's checksum.
func (t *Tensor) chunks(read func(at int64, first, n int) ([]byte, error)) error {
	size, width, s := t.Size(), t.DType.Bytes(), t.storage
	var sum uint32
	for first := 0; first < size; first += chunkBytes / width {
		b, err := read(s.at+int64(t.Offset+first)*int64(width), first, min(chunkBytes/width, size-first))
		if err != nil {
			return err
		}
		sum = crc32.Update(sum, crc32.IEEETable, b)
	}
	if s.checked && int64(size) == s.n && size > 0 && sum != s.crc {
		return fmt.Errorf("storage at byte %d: checksum %08x, the archive says %08x: the file is damaged", s.at, sum, s.crc)
	}
	return nil
}

func float(of DType, b []byte) float32 {
	switch of {
	case Float32:
		return math.Float32frombits(binary.LittleEndian.Uint32(b))
	case Float64:
		return float32(math.Float64frombits(binary.LittleEndian.Uint64(b)))
	case BFloat16:
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
	}
	return half(binary.LittleEndian.Uint16(b))
}

// half is the value of an IEEE 754 binary16.
func half(h uint16) float32 {
	sign, exponent, fraction := uint32(h>>15)<<31, uint32(h>>10&31), uint32(h&1023)
	switch exponent {
	case 0: // zero or subnormal: fraction · 2^-24
		return math.Float32frombits(sign | math.Float32bits(float32(fraction)*(1.0/(1<<24))))
	case 31:
		return math.Float32frombits(sign | 255<<23 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | fraction<<13)
}

func integer(of DType, b []byte) int64 {
	switch of {
	case Int64:
		return int64(binary.LittleEndian.Uint64(b))
	case Int32:
		return int64(int32(binary.LittleEndian.Uint32(b)))
	case Int16:
		return int64(int16(binary.LittleEndian.Uint16(b)))
	case Int8:
		return int64(int8(b[0]))
	}
	return int64(b[0])
}
