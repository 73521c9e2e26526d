package checkpoint

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// A safetensors file is
//
//	8 bytes    header length n, little-endian
//	n bytes    JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, …}, padded with spaces
//	the rest   tensor values, little-endian; offsets count from here and leave no gap
//
// (https://github.com/huggingface/safetensors#format). The reader refuses what the format leaves to
// the reader's good will: repeated names, unknown fields, gaps, overlaps, bytes nobody claims.
const (
	maxHeaderBytes = 16 << 20 // a model of 600 tensors needs about 0.1 MB
	maxNameBytes   = 512
	maxRank        = 8 // dimensions of one tensor
	dataAlignment  = 8 // bytes; the header is padded so that values start on a multiple of it
	copyBuffer     = 1 << 20

	metadataKey = "__metadata__"
	dtypeF32    = "F32"
	dtypeI64    = "I64"
)

// Tensor is a named array of float32, row-major.
type Tensor struct {
	Name  string
	Shape []int // one entry per dimension; empty for a single number
	Data  []float32
}

// IntTensor is a named array of int64, row-major. Only reference data holds such tensors; models do not.
type IntTensor struct {
	Name  string
	Shape []int
	Data  []int64
}

// Digest identifies the contents of a file.
type Digest struct {
	SHA256 string `json:"sha256"` // lower-case hexadecimal
	Bytes  int64  `json:"bytes"`
}

// WriteSafetensors writes tensors and metadata to path and returns the file's digest. The file appears
// whole or not at all: it is written under a temporary name in the same folder, synced and renamed.
// Equal contents give equal bytes, whatever the order of tensors.
func WriteSafetensors(path string, tensors []Tensor, metadata map[string]string) (Digest, error) {
	sources, err := sourcesOf(tensors)
	if err != nil {
		return Digest{}, fmt.Errorf("write %s: %w", path, err)
	}
	return WriteSources(path, sources, metadata)
}

// sourcesOf are tensors that are in memory.
func sourcesOf(tensors []Tensor) ([]Source, error) {
	sources := make([]Source, len(tensors))
	for i, t := range tensors {
		if n := size(t.Shape); n != len(t.Data) {
			return nil, fmt.Errorf("tensor %q: shape %v needs %d values, got %d", clip(t.Name), t.Shape, n, len(t.Data))
		}
		sources[i] = Source{Name: t.Name, Shape: t.Shape, data: t.Data}
	}
	return sources, nil
}

// ReadSafetensors returns the float32 tensors of the file at path, in file order, and its metadata.
// Tensors of int64 are left out (see [ReadSafetensorsInt64]); any other type is an error naming the tensor.
func ReadSafetensors(path string) ([]Tensor, map[string]string, error) {
	c, _, err := readSafetensors(path)
	if err != nil {
		return nil, nil, err
	}
	return c.floats, c.metadata, nil
}

// ReadSafetensorsInt64 returns the int64 tensors of the file at path, in file order.
func ReadSafetensorsInt64(path string) ([]IntTensor, error) {
	c, _, err := readSafetensors(path)
	if err != nil {
		return nil, err
	}
	return c.ints, nil
}

// contents is everything a safetensors file holds.
type contents struct {
	floats   []Tensor
	ints     []IntTensor
	metadata map[string]string
}

// readSafetensors reads a file and its digest in one pass.
func readSafetensors(path string) (*contents, Digest, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, Digest{}, fmt.Errorf("read tensors: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	c, err := decode(bufio.NewReaderSize(io.TeeReader(f, h), copyBuffer), size)
	if err != nil {
		return nil, Digest{}, fmt.Errorf("read tensors of %s: %w", path, err)
	}
	return c, digest(h, size), nil
}

// openRegular refuses folders, pipes and devices before opening them: a pipe would block for ever.
func openRegular(path string) (*os.File, int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: not a regular file", path)
	}
	f, err := os.Open(path)
	return f, info.Size(), err
}

func digest(h hash.Hash, size int64) Digest {
	return Digest{SHA256: hex.EncodeToString(h.Sum(nil)), Bytes: size}
}

// entry is one tensor as the header describes it.
type entry struct {
	name    string
	dtype   string
	shape   []int64
	offsets []int64 // begin, end in bytes from the start of the values
}

// encode writes tensors sorted by name.
func encode(w io.Writer, tensors []Source, metadata map[string]string) error {
	tensors = slices.Clone(tensors)
	slices.SortFunc(tensors, func(a, b Source) int { return strings.Compare(a.Name, b.Name) })
	header, err := encodeHeader(tensors, metadata)
	if err != nil {
		return err
	}
	if _, err := w.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))); err != nil {
		return err
	}
	if _, err := w.Write(header); err != nil {
		return err
	}
	largest := 0
	for _, t := range tensors {
		if t.Read != nil {
			largest = max(largest, size(t.Shape))
		}
	}
	room := make([]float32, largest)
	for _, t := range tensors {
		data := t.data
		if t.Read != nil {
			data = room[:size(t.Shape)]
			if err := t.Read(data); err != nil {
				return fmt.Errorf("values of tensor %q: %w", t.Name, err)
			}
		}
		values := bytesOf(data)
		if !littleEndian {
			values = swapped(slices.Clone(values), int(unsafe.Sizeof(float32(0))))
		}
		if _, err := w.Write(values); err != nil {
			return err
		}
	}
	return nil
}

func encodeHeader(tensors []Source, metadata map[string]string) ([]byte, error) {
	type field struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header := make(map[string]any, len(tensors)+1) // json.Marshal sorts the keys
	if len(metadata) > 0 {
		for k, v := range metadata {
			if !utf8.ValidString(k) || !utf8.ValidString(v) {
				return nil, fmt.Errorf("metadata %q: not valid UTF-8", k)
			}
		}
		header[metadataKey] = metadata
	}
	var begin int64
	for _, t := range tensors {
		if err := checkName(t.Name); err != nil {
			return nil, err
		}
		if _, repeated := header[t.Name]; repeated {
			return nil, fmt.Errorf("tensor %q: given twice", t.Name)
		}
		shape := make([]int64, len(t.Shape))
		for i, d := range t.Shape {
			shape[i] = int64(d)
		}
		n, err := elements(shape)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		end := begin + n*4
		header[t.Name] = field{dtypeF32, append([]int{}, t.Shape...), [2]int64{begin, end}}
		begin = end
	}
	text, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	if pad := len(text) % dataAlignment; pad != 0 {
		text = append(text, bytes.Repeat([]byte{' '}, dataAlignment-pad)...)
	}
	if len(text) > maxHeaderBytes {
		return nil, fmt.Errorf("header of %d bytes is over the limit of %d", len(text), maxHeaderBytes)
	}
	return text, nil
}

// decode reads a file of size bytes. What it allocates is bounded by size.
func decode(r io.Reader, size int64) (*contents, error) {
	header, err := readHeader(r, size)
	if err != nil {
		return nil, err
	}
	entries, metadata, err := parseHeader(header)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if err := checkLayout(entries, size-8-int64(len(header)), map[string]int64{dtypeF32: 4, dtypeI64: 8}); err != nil {
		return nil, err
	}
	c := &contents{metadata: metadata}
	for _, e := range entries { // in file order, so the file is read once from front to back
		shape := ints(e.shape)
		bytes := e.offsets[1] - e.offsets[0]
		if e.dtype == dtypeF32 {
			t := Tensor{e.name, shape, make([]float32, bytes/4)}
			err = readValues(r, t.Data)
			c.floats = append(c.floats, t)
		} else {
			t := IntTensor{e.name, shape, make([]int64, bytes/8)}
			err = readValues(r, t.Data)
			c.ints = append(c.ints, t)
		}
		if err != nil {
			return nil, fmt.Errorf("values of tensor %q: %w", e.name, err)
		}
	}
	return c, nil
}

// readHeader reads a file of size bytes up to its values: a length of 8 bytes, and so many bytes, which it returns.
func readHeader(r io.Reader, size int64) ([]byte, error) {
	var prefix [8]byte
	if size < int64(len(prefix)) {
		return nil, fmt.Errorf("%d bytes are too few to hold a header", size)
	}
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, fmt.Errorf("header length: %w", err)
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxHeaderBytes || n > uint64(size-int64(len(prefix))) {
		return nil, fmt.Errorf("no safetensors file: header length %d is over the limit of %d or beyond the file's %d bytes", n, maxHeaderBytes, size)
	}
	header := make([]byte, n)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	return header, nil
}

// parseHeader reads the JSON token by token: encoding/json alone would accept repeated and misspelt fields.
func parseHeader(header []byte) ([]entry, map[string]string, error) {
	if len(header) == 0 || header[0] != '{' || !utf8.Valid(header) {
		return nil, nil, errors.New("not a JSON object in UTF-8")
	}
	var entries []entry
	metadata := map[string]string{}
	dec := json.NewDecoder(bytes.NewReader(header))
	dec.UseNumber()
	err := eachField(dec, func(name string) error {
		if name == metadataKey {
			return eachField(dec, func(key string) (err error) {
				metadata[key], err = readString(dec)
				return err
			})
		}
		if err := checkName(name); err != nil {
			return err
		}
		e := entry{name: name}
		err := eachField(dec, func(key string) (err error) {
			switch key {
			case "dtype":
				e.dtype, err = readString(dec)
			case "shape":
				e.shape, err = readInts(dec, maxRank)
			case "data_offsets":
				e.offsets, err = readInts(dec, 2)
			default:
				err = errors.New("unknown field")
			}
			return err
		})
		if err == nil && (e.dtype == "" || e.shape == nil || len(e.offsets) != 2) {
			err = errors.New("needs dtype, shape and two data_offsets")
		}
		if err != nil {
			return fmt.Errorf("tensor %w", err)
		}
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if rest := header[dec.InputOffset():]; len(bytes.TrimLeft(rest, " ")) > 0 {
		return nil, nil, errors.New("text after the JSON object")
	}
	return entries, metadata, nil
}

// checkLayout sorts entries into file order and holds them against a value section of size bytes:
// every byte belongs to exactly one tensor, and every tensor has the bytes its shape needs. widths are the bytes of a
// number of each type that may be there.
func checkLayout(entries []entry, size int64, widths map[string]int64) error {
	slices.SortFunc(entries, func(a, b entry) int {
		if c := slices.Compare(a.offsets, b.offsets); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
	var end int64
	for _, e := range entries {
		width, known := widths[e.dtype]
		if !known {
			return fmt.Errorf("tensor %q: dtype %q is not supported, only %s", e.name, clip(e.dtype), strings.Join(slices.Sorted(maps.Keys(widths)), ", "))
		}
		n, err := elements(e.shape)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", e.name, err)
		}
		switch {
		case e.offsets[0] != end:
			return fmt.Errorf("tensor %q: starts at byte %d where %d was expected (overlap or gap)", e.name, e.offsets[0], end)
		case e.offsets[1] < e.offsets[0] || e.offsets[1] > size:
			return fmt.Errorf("tensor %q: bytes %v are outside the file's %d", e.name, e.offsets, size)
		case e.offsets[1]-e.offsets[0] != n*width:
			return fmt.Errorf("tensor %q: shape %v of %s needs %d bytes, has %d", e.name, e.shape, e.dtype, n*width, e.offsets[1]-e.offsets[0])
		}
		end = e.offsets[1]
	}
	if end != size {
		return fmt.Errorf("the tensors cover %d bytes of %d", end, size)
	}
	return nil
}

func checkName(name string) error {
	if name == "" || name == metadataKey || len(name) > maxNameBytes || !utf8.ValidString(name) {
		return fmt.Errorf("tensor %q: a name is 1 to %d bytes of UTF-8 other than %s", clip(name), maxNameBytes, metadataKey)
	}
	return nil
}

// elements multiplies the dimensions, refusing negative ones and products whose size in bytes overflows.
func elements(shape []int64) (int64, error) {
	if len(shape) > maxRank {
		return 0, fmt.Errorf("shape has %d dimensions, at most %d are allowed", len(shape), maxRank)
	}
	n := int64(1)
	for _, d := range shape {
		if d < 0 || d > 0 && n > math.MaxInt64/8/d {
			return 0, fmt.Errorf("shape %v is negative or too large", shape)
		}
		n *= d
	}
	return n, nil
}

// eachField reads one JSON object and calls read for the value of each field. Repeated fields are refused.
func eachField(dec *json.Decoder, read func(key string) error) error {
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return firstErr(err, fmt.Errorf("%v where an object was expected", t))
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		key := t.(string) // the decoder accepts nothing else here
		if seen[key] {
			return fmt.Errorf("%q: given twice", clip(key))
		}
		seen[key] = true
		if err := read(key); err != nil {
			return fmt.Errorf("%q: %w", clip(key), err)
		}
	}
	_, err := dec.Token() // the closing brace
	return err
}

func readString(dec *json.Decoder) (string, error) {
	t, err := dec.Token()
	s, ok := t.(string)
	if err != nil || !ok {
		return "", firstErr(err, fmt.Errorf("%v where a string was expected", t))
	}
	return s, nil
}

// readInts reads an array of at most most integers from 0 to 2^63-1; never nil without an error.
func readInts(dec *json.Decoder, most int) ([]int64, error) {
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, firstErr(err, fmt.Errorf("%v where an array was expected", t))
	}
	ints := []int64{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		number, ok := t.(json.Number)
		v, err := strconv.ParseInt(number.String(), 10, 64)
		if !ok || err != nil || v < 0 || len(ints) == most {
			return nil, fmt.Errorf("%v in an array of at most %d integers from 0 to 2^63-1", t, most)
		}
		ints = append(ints, v)
	}
	_, err := dec.Token() // the closing bracket
	return ints, err
}

// firstErr returns err, or otherwise if err is nil.
func firstErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// clip shortens hostile text for an error message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// bytesOf returns the memory of values. It shares it: nothing is copied, however large the tensor.
func bytesOf[T float32 | int64](values []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(values))), len(values)*int(unsafe.Sizeof(*new(T))))
}

func readValues[T float32 | int64](r io.Reader, values []T) error {
	b := bytesOf(values)
	_, err := io.ReadFull(r, b)
	if !littleEndian {
		swapped(b, int(unsafe.Sizeof(*new(T))))
	}
	return err
}

// swapped reverses the byte order of each element of width bytes, in place.
func swapped(b []byte, width int) []byte {
	for element := range slices.Chunk(b, width) {
		slices.Reverse(element)
	}
	return b
}
