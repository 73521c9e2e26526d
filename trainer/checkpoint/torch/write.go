package torch

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strconv"
	"unsafe"
)

// Saved is a float32 tensor to write: Read fills its numbers, row-major, when their turn comes.
type Saved struct {
	Shape []int
	Read  func(dst []float32) error
}

const (
	archiveName = "archive" // PyTorch takes whatever name the first member's folder has
	alignment   = 64        // bytes; as PyTorch aligns storages, for mapping the file
	writeFloats = 1 << 18
)

// Write writes root as torch.save does since PyTorch 1.6: a zip archive of a pickle and one stored member per tensor.
// root is made of None, Bool, Int, Float, String, *List, *Tuple, *Dict (written as OrderedDict) and *Saved. The same
// contents give the same bytes.
func Write(w io.Writer, root Value) error {
	p := pickler{}
	p.raw(opProto, 2)
	if err := p.value(root, 0); err != nil {
		return fmt.Errorf("pickle: %w", err)
	}
	p.raw(opStop)
	count := &counter{w: w}
	z := zip.NewWriter(count)
	member := func(name string, write func(io.Writer) error) error {
		if err := z.Flush(); err != nil {
			return err
		}
		h := &zip.FileHeader{Name: archiveName + "/" + name, Method: zip.Store}
		const fixed, descriptor = 30, 16 // bytes of a local header before name and extra field; of what ends the member before
		at := count.n
		if at > 0 {
			at += descriptor
		}
		pad := alignment - (at+fixed+int64(len(h.Name))+4)%alignment
		h.Extra = binary.LittleEndian.AppendUint16([]byte("FB"), uint16(pad))
		h.Extra = append(h.Extra, bytes.Repeat([]byte{'Z'}, int(pad))...)
		m, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		return write(m)
	}
	text := func(b []byte) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(b); return err }
	}
	if err := member("data.pkl", text(p.out.Bytes())); err != nil {
		return fmt.Errorf("data.pkl: %w", err)
	}
	if err := member("byteorder", text([]byte("little"))); err != nil {
		return fmt.Errorf("byteorder: %w", err)
	}
	for i, t := range p.tensors {
		if err := member("data/"+strconv.Itoa(i), t.write); err != nil {
			return fmt.Errorf("storage %d, of shape %v: %w", i, t.Shape, err)
		}
	}
	if err := member("version", text([]byte("3\n"))); err != nil {
		return fmt.Errorf("version: %w", err)
	}
	return z.Close()
}

func (t *Saved) size() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

func (t *Saved) write(w io.Writer) error {
	x := make([]float32, t.size())
	if err := t.Read(x); err != nil {
		return err
	}
	if littleEndian {
		_, err := w.Write(bytesOf(x))
		return err
	}
	b := make([]byte, 0, 4*writeFloats)
	for len(x) > 0 {
		part := x[:min(len(x), writeFloats)]
		x, b = x[len(part):], b[:0]
		for _, v := range part {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// bytesOf returns the memory of x, without a copy.
func bytesOf(x []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

// pickler writes protocol 2 without a memo: every value once.
type pickler struct {
	out     bytes.Buffer
	tensors []*Saved
}

const maxDepth = 16

func (p *pickler) raw(b ...byte) { p.out.Write(b) }

func (p *pickler) text(s string) {
	p.raw(opBinUnicode)
	p.out.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(s))))
	p.out.WriteString(s)
}

func (p *pickler) global(module, name string) {
	p.raw(opGlobal)
	p.out.WriteString(module + "\n" + name + "\n")
}

func (p *pickler) integer(v int64) {
	switch {
	case v >= 0 && v < 1<<8:
		p.raw(opBinInt1, byte(v))
	case v >= math.MinInt32 && v <= math.MaxInt32:
		p.raw(opBinInt)
		p.out.Write(binary.LittleEndian.AppendUint32(nil, uint32(int32(v))))
	default:
		p.raw(opLong1, 8)
		p.out.Write(binary.LittleEndian.AppendUint64(nil, uint64(v)))
	}
}

func (p *pickler) integers(v []int) {
	p.raw(opMark)
	for _, x := range v {
		p.integer(int64(x))
	}
	p.raw(opTuple)
}

func (p *pickler) value(v Value, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("deeper than %d levels", maxDepth)
	}
	switch v := v.(type) {
	case None:
		p.raw(opNone)
	case Bool:
		if v {
			p.raw(opTrue)
		} else {
			p.raw(opFalse)
		}
	case Int:
		p.integer(int64(v))
	case Float:
		p.raw(opBinFloat)
		p.out.Write(binary.BigEndian.AppendUint64(nil, math.Float64bits(float64(v))))
	case String:
		p.text(string(v))
	case *List:
		p.raw(opEmptyList, opMark)
		if err := p.values(v.Items, depth); err != nil {
			return err
		}
		p.raw(opAppends)
	case *Tuple:
		p.raw(opMark)
		if err := p.values(v.Items, depth); err != nil {
			return err
		}
		p.raw(opTuple)
	case *Dict:
		p.global("collections", "OrderedDict")
		p.raw(opEmptyTuple, opReduce, opMark)
		for _, item := range v.Items {
			if err := p.values([]Value{item.Key, item.Value}, depth); err != nil {
				return fmt.Errorf("%s: %w", describe(item.Key), err)
			}
		}
		p.raw(opSetItems)
	case *Saved:
		return p.tensor(v)
	default:
		return fmt.Errorf("%s cannot be written", describe(v))
	}
	return nil
}

func (p *pickler) values(items []Value, depth int) error {
	for _, item := range items {
		if err := p.value(item, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// tensor is _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()).
func (p *pickler) tensor(t *Saved) error {
	strides := make([]int, len(t.Shape))
	stride := 1
	for i := len(t.Shape) - 1; i >= 0; i-- {
		if t.Shape[i] < 1 || stride > math.MaxInt32/t.Shape[i] {
			return fmt.Errorf("tensor of shape %v: empty, or of more than %d numbers", t.Shape, math.MaxInt32)
		}
		strides[i] = stride
		stride *= t.Shape[i]
	}
	p.global("torch._utils", "_rebuild_tensor_v2")
	p.raw(opMark, opMark)
	p.text("storage")
	p.global("torch", "FloatStorage")
	p.text(strconv.Itoa(len(p.tensors)))
	p.text("cpu")
	p.integer(int64(stride))
	p.raw(opTuple, opBinPersID)
	p.integer(0)
	p.integers(t.Shape)
	p.integers(strides)
	p.raw(opFalse)
	p.global("collections", "OrderedDict")
	p.raw(opEmptyTuple, opReduce, opTuple, opReduce)
	p.tensors = append(p.tensors, t)
	return nil
}

// counter counts the bytes that are written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// Set adds an entry to a dict that is to be written.
func (d *Dict) Set(key string, value Value) { d.set(String(key), value) }
