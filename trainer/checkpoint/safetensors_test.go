package checkpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// file builds a file from a JSON header and a number of zero bytes.
func file(header string, values int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, values)...)
}

var hostile = map[string]struct {
	file []byte
	want string // in the error
}{
	"empty":               {nil, "too few"},
	"no header":           {make([]byte, 8), "not a JSON object"},
	"header past the end": {binary.LittleEndian.AppendUint64(nil, 1), "beyond"},
	"header of 2^63":      {append(binary.LittleEndian.AppendUint64(nil, 1<<63), "{}"...), "beyond"},
	"header of 2^64-1":    {append(binary.LittleEndian.AppendUint64(nil, math.MaxUint64), "{}"...), "beyond"},
	"an array":            {file(`[]`, 0), "not a JSON object"},
	"cut JSON":            {file(`{"a":{"dtype":"F32"`, 0), "EOF"},
	"two objects":         {file(`{}{}`, 0), "after the JSON object"},
	"bad UTF-8":           {file("{\"a\xff\":{}}", 0), "UTF-8"},
	"nameless":            {file(`{"":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 4), "a name is"},
	"long name":           {file(`{"`+strings.Repeat("n", 600)+`":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 4), "a name is"},
	"repeated tensor":     {file(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}`, 8), `"a": given twice`},
	"repeated metadata":   {file(`{"__metadata__":{"k":"1","k":"2"}}`, 0), `"k": given twice`},
	"metadata not text":   {file(`{"__metadata__":{"k":1}}`, 0), "string was expected"},
	"repeated field":      {file(`{"a":{"dtype":"F32","shape":[],"shape":[1],"data_offsets":[0,4]}}`, 4), `"shape": given twice`},
	"unknown field":       {file(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"x":1}}`, 4), `"x": unknown field`},
	"field in capitals":   {file(`{"a":{"DTYPE":"F32","shape":[],"data_offsets":[0,4]}}`, 4), "unknown field"},
	"no dtype":            {file(`{"a":{"shape":[],"data_offsets":[0,4]}}`, 4), "needs dtype"},
	"null shape":          {file(`{"a":{"dtype":"F32","shape":null,"data_offsets":[0,4]}}`, 4), "array was expected"},
	"null dimension":      {file(`{"a":{"dtype":"F32","shape":[null],"data_offsets":[0,4]}}`, 4), "integers"},
	"fraction":            {file(`{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}`, 4), "integers"},
	"negative dimension":  {file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 4), "integers"},
	"nine dimensions":     {file(`{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}`, 4), "at most 8"},
	"overflowing shape":   {file(`{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}`, 0), "too large"},
	"one offset":          {file(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0]}}`, 4), "two data_offsets"},
	"offsets reversed":    {file(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[0],"data_offsets":[0,-4]}}`, 0), "integers"},
	"outside the file":    {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 4), `"a": bytes [0 8] are outside`},
	"far outside":         {file(`{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}`, 4), "outside"},
	"shape too small":     {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}`, 8), "needs 4 bytes"},
	"overlap":             {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), `"b": starts at byte 4`},
	"same bytes twice":    {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), `"b": starts`},
	"gap":                 {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), `"a": starts at byte 4`},
	"unclaimed bytes":     {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 8), "cover 4 bytes of 8"},
	"other dtype":         {file(`{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}`, 4), `"a": dtype "BF16"`},
}

func TestReadRefusesHostileFiles(t *testing.T) {
	for name, c := range hostile {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.safetensors")
			if err := os.WriteFile(path, c.file, 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, err := ReadSafetensors(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got error %v, want one with the path and %q", err, c.want)
			}
		})
	}
}

// What is refused when it is read whole is refused when it is opened too; only more types are known.
func TestOpenRefusesHostileFiles(t *testing.T) {
	for name, c := range hostile {
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := os.WriteFile(path, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if name == "other dtype" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else {
				f.Close()
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got error %v, want one with the path and %q", name, err, c.want)
		}
	}
}

// Every floating-point type, mapped and read; integers are refused by name.
func TestOpenTypes(t *testing.T) {
	header := `{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]},` +
		`"c":{"dtype":"F16","shape":[2],"data_offsets":[12,16]},"d":{"dtype":"F64","shape":[1],"data_offsets":[16,24]},` +
		`"e":{"dtype":"I32","shape":[1],"data_offsets":[24,28]},"f":{"dtype":"U8","shape":[3,1],"data_offsets":[28,31]}}`
	values := []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0x80, 0x3f, 0, 0xc0, 0, 0x3c, 1, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 1, 0, 0, 0, 1, 2, 3}
	want := map[string][]float32{"a": {1, -2}, "b": {1, -2}, "c": {1, 1.0 / (1 << 24)}, "d": {1}}
	for _, pad := range []string{"", " ", "   "} { // values at odd addresses too
		path := filepath.Join(t.TempDir(), "x.safetensors")
		file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header)+len(pad))), header+pad...)
		if err := os.WriteFile(path, append(file, values...), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range want {
			got, err := f.Values(name)
			read := make([]float32, len(want))
			if err == nil {
				err = f.Read(name, read)
			}
			if err != nil || !slices.Equal(got, want) || !slices.Equal(read, want) {
				t.Errorf("%s: %v and %v (%v), want %v", name, got, read, err, want)
			}
		}
		f.Release()
		for _, name := range []string{"e", "f"} {
			if _, err := f.Values(name); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("integers %s: %v, want an error that names the tensor", name, err)
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCompare(t *testing.T) {
	want := map[string][]int{"a": {1}, "b": {2, 3}}
	if err := Compare(want, map[string][]int{"b": {2, 3}, "a": {1}}); err != nil {
		t.Error(err)
	}
	got := map[string][]int{"b": {3, 2}}
	for i := range 12 {
		got[fmt.Sprintf("\n%02d", i)] = nil // a terminal must not act on it
	}
	err := Compare(want, got)
	if text := fmt.Sprint(err); text != "the tensors are not those of the model; 1 missing: \"a\"; 12 extra: \"\\n00\", \"\\n01\", \"\\n02\", \"\\n03\", \"\\n04\", \"\\n05\", \"\\n06\", \"\\n07\", \"\\n08\", \"\\n09\" and 2 more; 1 of another shape: \"b\" [3 2] instead of [2 3]" {
		t.Errorf("got %v", err)
	}
}

func TestReadRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "missing"), os.DevNull} {
		if _, _, err := ReadSafetensors(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got error %v, want one naming it", path, err)
		}
	}
}

func FuzzReadSafetensors(f *testing.F) {
	for _, c := range hostile {
		f.Add(c.file)
	}
	var whole bytes.Buffer
	if err := encodeTensors(&whole, []Tensor{{"b", []int{2, 3}, make([]float32, 6)}, {"a", nil, []float32{1}}}, map[string]string{"k": "v"}); err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Bytes())
	f.Add(file(`{"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"z":{"dtype":"F32","shape":[0,9],"data_offsets":[8,8]}}   `, 8))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decode(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		total := 0
		for _, v := range c.floats {
			total += 4 * len(v.Data)
		}
		for _, v := range c.ints {
			total += 8 * len(v.Data)
		}
		if total > len(data) {
			t.Fatalf("%d bytes of values out of a file of %d", total, len(data))
		}
		if len(c.ints) > 0 {
			return
		}
		var again bytes.Buffer
		if err := encodeTensors(&again, c.floats, c.metadata); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		back, err := decode(&again, int64(again.Len()))
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if !equal(sorted(c.floats), back.floats) || !reflect.DeepEqual(c.metadata, back.metadata) {
			t.Fatal("reading, writing and reading again changed the contents")
		}
	})
}

// FuzzOpen: whatever the file, an error or tensors that can be read, mapped and not, with the same numbers.
func FuzzOpen(f *testing.F) {
	for _, c := range hostile {
		f.Add(c.file)
	}
	f.Add(file(`{"i":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},"z":{"dtype":"F64","shape":[1],"data_offsets":[2,10]}}`, 10))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		var total int64
		for _, x := range f.Tensors {
			total += int64(x.Elements()) * widths[x.DType]
			values, err := f.Values(x.Name)
			if floating := strings.Contains(x.DType, "F"); floating != (err == nil) {
				t.Fatalf("%s of type %s: %v", x.Name, x.DType, err)
			}
			if err != nil {
				continue
			}
			read := make([]float32, x.Elements())
			if err := f.Read(x.Name, read); err != nil || len(values) != len(read) {
				t.Fatalf("%s: %d values, %d read (%v)", x.Name, len(values), len(read), err)
			}
			for i := range read {
				if math.Float32bits(read[i]) != math.Float32bits(values[i]) {
					t.Fatalf("%s: value %d is %v read and %v mapped", x.Name, i, read[i], values[i])
				}
			}
		}
		if total > int64(len(data)) {
			t.Fatalf("%d bytes of values out of a file of %d", total, len(data))
		}
	})
}

func encodeTensors(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	sources, err := sourcesOf(tensors)
	if err != nil {
		return err
	}
	return encode(w, sources, metadata)
}

func sorted(tensors []Tensor) []Tensor {
	return slices.SortedFunc(slices.Values(tensors), func(a, b Tensor) int { return strings.Compare(a.Name, b.Name) })
}

// equal compares bit by bit: NaN payloads and the sign of zero must survive.
func equal(a, b []Tensor) bool {
	return slices.EqualFunc(a, b, func(a, b Tensor) bool {
		return a.Name == b.Name && slices.Equal(a.Shape, b.Shape) && bytes.Equal(bytesOf(a.Data), bytesOf(b.Data))
	})
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z."<é\\]{1,12}`), 0, 6, rapid.ID[string]).Draw(t, "names")
		var tensors []Tensor
		for _, name := range names {
			shape := rapid.SliceOfN(rapid.IntRange(0, 4), 0, 4).Draw(t, "shape")
			n := 1
			for _, d := range shape {
				n *= d
			}
			data := make([]float32, n)
			for i := range data {
				data[i] = math.Float32frombits(rapid.Uint32().Draw(t, "bits"))
			}
			tensors = append(tensors, Tensor{name, shape, data})
		}
		metadata := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "metadata")
		first, err := WriteSafetensors(path, tensors, metadata)
		if err != nil {
			t.Fatal(err)
		}
		got, gotMetadata, err := ReadSafetensors(path)
		if err != nil {
			t.Fatal(err)
		}
		if !equal(got, sorted(tensors)) || !reflect.DeepEqual(gotMetadata, metadata) {
			t.Fatalf("wrote %v %v, read %v %v", tensors, metadata, got, gotMetadata)
		}
		slices.Reverse(tensors)
		if second, err := WriteSafetensors(path, tensors, metadata); err != nil || second != first {
			t.Fatalf("the order of tensors changed the file: %v, then %v, %v", first, second, err)
		}
		text, err := os.ReadFile(path)
		if n := binary.LittleEndian.Uint64(text); err != nil || n%dataAlignment != 0 {
			t.Fatalf("a header of %d bytes leaves the values unaligned (%v)", n, err)
		}
	})
}

func TestWriteRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		tensors []Tensor
		want    string
	}{
		"short data":         {[]Tensor{{"w", []int{2, 2}, make([]float32, 3)}}, `"w": shape [2 2] needs 4 values, got 3`},
		"negative dimension": {[]Tensor{{"w", []int{-1}, nil}}, `"w": shape`},
		"same name":          {[]Tensor{{"w", nil, []float32{1}}, {"w", nil, []float32{2}}}, `"w": given twice`},
		"no name":            {[]Tensor{{"", nil, []float32{1}}}, "a name is"},
		"reserved name":      {[]Tensor{{"__metadata__", nil, []float32{1}}}, "a name is"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := WriteSafetensors(filepath.Join(dir, "w.safetensors"), c.tensors, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "w.safetensors") {
				t.Errorf("got error %v, want one with the path and %q", err, c.want)
			}
			wantEmpty(t, dir)
		})
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("%s holds %v (%v), want nothing", dir, entries, err)
	}
}

// Big-endian machines are rare enough that only the conversion itself can be tested here.
func TestSwapped(t *testing.T) {
	got := swapped([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 4)
	if want := []byte{4, 3, 2, 1, 8, 7, 6, 5}; !bytes.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func BenchmarkSafetensors(b *testing.B) {
	const tensors, elements = 64, 1 << 18 // 64 MiB
	var in []Tensor
	for i := range tensors {
		in = append(in, Tensor{fmt.Sprintf("layer.%d.weight", i), []int{512, 512}, make([]float32, elements)})
	}
	path := filepath.Join(b.TempDir(), "x.safetensors")
	b.Run("write", func(b *testing.B) {
		b.SetBytes(tensors * elements * 4)
		for b.Loop() {
			if _, err := WriteSafetensors(path, in, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		b.SetBytes(tensors * elements * 4)
		for b.Loop() {
			if _, _, err := ReadSafetensors(path); err != nil {
				b.Fatal(err)
			}
		}
	})
}
