package checkpoint

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"
)

// widths are the bytes of a number of each type that safetensors files of models have.
var widths = map[string]int64{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}

// File is an open safetensors file. Its header has been read and checked; its numbers are read when they are asked for.
type File struct {
	Path     string
	Tensors  []Info // by name
	Metadata map[string]string
	Size     int64 // bytes

	f      *os.File
	mapped []byte // the file, if it could be mapped
	begin  int64  // of the values, from the start of the file
	at     map[string]entry
}

// Info is a tensor's type and shape.
type Info struct {
	Name  string
	DType string // as the file has it: F32, BF16, …
	Shape []int
}

// Elements is how many numbers the tensor has.
func (t Info) Elements() int { return size(t.Shape) }

// Floating tells whether the numbers are floats, which can be read.
func (t Info) Floating() bool { return floating(t.DType) }

func floating(dtype string) bool { return dtype == "BF16" || strings.HasPrefix(dtype, "F") }

// Open opens a safetensors file with numbers of any type, and maps it into memory where the system can. What it
// allocates is bounded by the header, of 16 MiB at most.
func Open(path string) (*File, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("open tensors: %w", err)
	}
	o := &File{Path: path, Size: size, f: f, at: map[string]entry{}}
	if err := o.readHeader(); err != nil {
		return nil, errors.Join(fmt.Errorf("open tensors of %s: %w", path, err), f.Close())
	}
	if o.mapped, err = mapFile(f, size); err != nil {
		return nil, errors.Join(fmt.Errorf("open tensors of %s: map %d bytes: %w", path, size, err), f.Close())
	}
	return o, nil
}

func (o *File) readHeader() error {
	header, err := readHeader(io.NewSectionReader(o.f, 0, o.Size), o.Size)
	if err != nil {
		return err
	}
	o.begin = int64(8 + len(header))
	entries, metadata, err := parseHeader(header)
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if err := checkLayout(entries, o.Size-o.begin, widths); err != nil {
		return err
	}
	o.Metadata = metadata
	for _, e := range entries {
		o.at[e.name] = e
		o.Tensors = append(o.Tensors, Info{e.name, e.dtype, ints(e.shape)})
	}
	slices.SortFunc(o.Tensors, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// Close ends reading. Slices that Values returned must not be used after it.
func (o *File) Close() error { return errors.Join(unmap(o.mapped), o.f.Close()) }

// Release lets the system take back the memory of what was read through the map; it is read again when it is used.
func (o *File) Release() { release(o.mapped) }

// Values returns the numbers of a floating-point tensor, row-major, which must not be changed: the mapped file itself
// where it holds float32, otherwise a copy. Float64 is rounded to float32; all else is exact.
func (o *File) Values(name string) ([]float32, error) {
	e, ok := o.at[name]
	if !ok {
		return nil, fmt.Errorf("%s has no tensor %q", o.Path, clip(name))
	}
	at, end := o.begin+e.offsets[0], o.begin+e.offsets[1]
	if o.mapped != nil && littleEndian && e.dtype == dtypeF32 && at%4 == 0 && end > at {
		return unsafe.Slice((*float32)(unsafe.Pointer(&o.mapped[at])), (end-at)/4), nil
	}
	out := make([]float32, (end-at)/widths[e.dtype])
	return out, o.Read(name, out)
}

// Read writes the numbers of a floating-point tensor to dst, of its size, row-major.
func (o *File) Read(name string, dst []float32) error {
	e, ok := o.at[name]
	if !ok {
		return fmt.Errorf("%s has no tensor %q", o.Path, clip(name))
	}
	width := int(widths[e.dtype])
	if !floating(e.dtype) {
		return fmt.Errorf("%s: tensor %q holds numbers of type %s, want floating-point ones", o.Path, clip(name), e.dtype)
	}
	if n := (e.offsets[1] - e.offsets[0]) / int64(width); n != int64(len(dst)) {
		return fmt.Errorf("%s: tensor %q has %d numbers, room for %d", o.Path, clip(name), n, len(dst))
	}
	if e.dtype == dtypeF32 {
		if err := readValues(io.NewSectionReader(o.f, o.begin+e.offsets[0], e.offsets[1]-e.offsets[0]), dst); err != nil {
			return fmt.Errorf("%s: values of tensor %q: %w", o.Path, clip(name), err)
		}
		return nil
	}
	b := make([]byte, min(len(dst)*width, copyBuffer))
	for first := 0; first < len(dst); first += copyBuffer / width {
		part := b[:min(len(b), (len(dst)-first)*width)]
		if _, err := o.f.ReadAt(part, o.begin+e.offsets[0]+int64(first*width)); err != nil {
			return fmt.Errorf("%s: values of tensor %q: %w", o.Path, clip(name), err)
		}
		for i := range len(part) / width {
			dst[first+i] = widen(e.dtype, part[i*width:])
		}
	}
	return nil
}

// Digest reads the whole file for its digest.
func (o *File) Digest() (Digest, error) {
	h := sha256.New()
	if _, err := io.CopyBuffer(h, io.NewSectionReader(o.f, 0, o.Size), make([]byte, copyBuffer)); err != nil {
		return Digest{}, fmt.Errorf("digest of %s: %w", o.Path, err)
	}
	return digest(h, o.Size), nil
}

// Bytes returns the memory of values, which it shares: numbers in this machine's byte order.
func Bytes(values []float32) []byte { return bytesOf(values) }

// FileDigest reads a file for its digest.
func FileDigest(path string) (Digest, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return Digest{}, fmt.Errorf("digest: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(h, f, make([]byte, copyBuffer))
	if err == nil && n != size { // it changes while it is read
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return Digest{}, fmt.Errorf("digest of %s: read %d of %d bytes: %w", path, n, size, err)
	}
	return digest(h, size), nil
}

// widen is one number of a floating-point type.
func widen(dtype string, b []byte) float32 {
	switch dtype {
	case "F64":
		return float32(math.Float64frombits(binary.LittleEndian.Uint64(b)))
	case "BF16":
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
	}
	h := binary.LittleEndian.Uint16(b) // IEEE 754 binary16
	sign, exponent, fraction := uint32(h>>15)<<31, uint32(h>>10&31), uint32(h&1023)
	switch exponent {
	case 0: // zero or subnormal: fraction · 2^-24
		return math.Float32frombits(sign | math.Float32bits(float32(fraction)*(1.0/(1<<24))))
	case 31:
		return math.Float32frombits(sign | 255<<23 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | fraction<<13)
}

func ints(x []int64) []int {
	out := make([]int, len(x))
	for i, v := range x {
		out[i] = int(v)
	}
	return out
}

func size(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// Source is a tensor whose numbers are made when they are written.
type Source struct {
	Name  string
	Shape []int
	Read  func(dst []float32) error // fills the numbers, row-major
	data  []float32                 // the numbers, without Read
}

// WriteModel writes a model's file, one tensor in memory at a time: what LoadModel reads. config is a JSON object, of
// which a field model says what the tensors are; step is the number of optimiser steps behind them, 0 if it is not known.
func WriteModel(path string, tensors []Source, config []byte, step int) (Digest, error) {
	text, err := compactObject(config)
	if err != nil {
		return Digest{}, fmt.Errorf("write model %s: config: %w", path, err)
	}
	return WriteSources(path, tensors, map[string]string{configKey: string(text), stepKey: strconv.Itoa(step)})
}

// WriteSources is WriteSafetensors with one tensor in memory at a time.
func WriteSources(path string, tensors []Source, metadata map[string]string) (Digest, error) {
	return writeDurably(path, func(w io.Writer) error { return encode(w, tensors, metadata) })
}

// Disagreement lists how the tensors of a file differ from those a model has.
type Disagreement struct {
	Missing, Extra []string // names, in order
	Misshapen      []string // each with both shapes
}

// Compare holds tensors by name against the shapes that are wanted; nil if they agree.
func Compare(want, got map[string][]int) error {
	var d Disagreement
	for _, name := range slices.Sorted(maps.Keys(want)) {
		shape, ok := got[name]
		switch {
		case !ok:
			d.Missing = append(d.Missing, name)
		case !slices.Equal(shape, want[name]):
			d.Misshapen = append(d.Misshapen, fmt.Sprintf("%q %v instead of %v", clip(name), shape, want[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			d.Extra = append(d.Extra, name)
		}
	}
	if len(d.Missing)+len(d.Extra)+len(d.Misshapen) == 0 {
		return nil
	}
	return &d
}

func (d *Disagreement) Error() string {
	var parts []string
	for _, list := range []struct {
		what   string
		names  []string
		quoted bool // names of a file may hold anything
	}{{"missing", d.Missing, false}, {"extra", d.Extra, false}, {"of another shape", d.Misshapen, true}} {
		const most = 10
		if len(list.names) == 0 {
			continue
		}
		shown := make([]string, 0, most)
		for _, name := range list.names[:min(len(list.names), most)] {
			if !list.quoted {
				name = strconv.Quote(clip(name))
			}
			shown = append(shown, name)
		}
		text := fmt.Sprintf("%d %s: %s", len(list.names), list.what, strings.Join(shown, ", "))
		if more := len(list.names) - most; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, text)
	}
	return "the tensors are not those of the model; " + strings.Join(parts, "; ")
}
