package torch

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// member is one file of a made-up archive.
type member struct {
	name   string
	data   []byte
	method uint16
}

func archive(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, m := range members {
		w, err := z.CreateHeader(&zip.FileHeader{Name: m.name, Method: m.method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(b []byte) (Value, error) {
	v, _, err := Read(bytes.NewReader(b), int64(len(b)))
	return v, err
}

func pickled(text string) []byte { return append([]byte{opProto, 2}, text...) }

// tensorOf is the pickle of a tensor with storage "0" of n floats.
func tensorOf(n byte, rest string) []byte {
	return pickled("ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK" +
		string(rune(n)) + "tQ" + rest + "tR.")
}

func TestForbiddenNamesAreRefusedByName(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "ran")
	for _, c := range []struct{ name, pickle string }{
		{"os system", "cos\nsystem\n(X" + counted("touch "+trace) + "tR."},
		{"posix system", "X" + counted("posix") + "X" + counted("system") + "\x93(X" + counted("touch "+trace) + "tR."},
		{"builtins eval", "cbuiltins\neval\n(X\x01\x00\x00\x001tR."},
		{"torch.serialization load", "ctorch.serialization\nload\n."},
		{"torch QInt8Storage", "ctorch\nQInt8Storage\n."},
		{"evil FloatStorage", "cevil\nFloatStorage\n."},
		{"torch._utils _rebuild_sparse_tensor", "ctorch._utils\n_rebuild_sparse_tensor\n."},
	} {
		for format, file := range map[string][]byte{
			"zip": archive(t, member{name: "a/data.pkl", data: pickled(c.pickle)}),
			"legacy": slices.Concat(pickled("\x8a\x0a"+string(legacyMagic)+"."), pickled("M\xe9\x03."),
				pickled("}(X\x0d\x00\x00\x00little_endian\x88u."), pickled(c.pickle)),
		} {
			_, err := read(file)
			var refused *NotAllowed
			if !errors.As(err, &refused) || refused.Name != c.name {
				t.Errorf("%s, %s: got %v, want a refusal of that name", c.name, format, err)
			}
		}
	}
	if _, err := os.Stat(trace); err == nil {
		t.Error("a command of a pickle was run")
	}
}

func counted(s string) string {
	return string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s
}

func TestBadPickles(t *testing.T) {
	for want, p := range map[string]string{
		"INST is refused":         "(ios\nsystem\n.",
		"OBJ is refused":          "(cos\n",
		"EXT1 is refused":         "\x82\x01.",
		"NEWOBJ_EX":               ")}\x92.",
		"not an opcode":           "\xff.",
		"cut short":               "X\xff\xff\xff\xff",
		"8 bytes wanted":          "G\x00",
		"stack is empty":          "0.",
		"there is no mark":        "t.",
		"memo 7":                  "h\x07.",
		"left on the stack":       "NN.",
		"a key without":           "}(Nu.",
		"items for":               "N(Nu.",
		"attributes of":           "]}b.",
		"a call of":               "N)R.",
		"no function":             "ctorch\nFloatStorage\n)R.",
		"a reference to":          "NQ.",
		"an integer of 65":        "\x8a\x41" + strings.Repeat("\x01", 65) + ".",
		"protocol 9":              "\x80\x09N.",
		"a tensor of":             "ctorch._utils\n_rebuild_tensor_v2\n(K\x00K\x00))tR.",
		"4 arguments, want":       "ctorch._utils\n_rebuild_tensor_v2\n(K\x00tR.", // "1 arguments, want at least 4"
		"a line without":          "c" + strings.Repeat("x", 2*maxLineText),
		"is the name":             "ctorch\nSize\n.",
		"in its list, want a pai": "ccollections\nOrderedDict\n(](NetR.",
	} {
		if want == "4 arguments, want" {
			want = "1 arguments, want at least 4"
		}
		if want == "OBJ is refused" {
			p = "(N" + "o."
		}
		_, err := read(archive(t, member{name: "a/data.pkl", data: pickled(p)}))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", p, err, want)
		}
	}
}

func TestViewsStayInsideTheirStorage(t *testing.T) {
	values := make([]byte, 24)
	for i := range 6 {
		binary.LittleEndian.PutUint32(values[4*i:], math.Float32bits(float32(i)))
	}
	file := func(rest string) []byte {
		return archive(t, member{name: "a/data.pkl", data: tensorOf(6, rest)}, member{name: "a/data/0", data: values})
	}
	root, err := read(file("K\x01(K\x02K\x02t(K\x01K\x02t\x89"))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]float32, 4)
	if err := root.(*Tensor).Floats(got); err != nil || !slices.Equal(got, []float32{1, 3, 2, 4}) {
		t.Errorf("a transposed view is %v (%v), want [1 3 2 4]", got, err)
	}
	big := "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f" // 2^63-1
	for want, rest := range map[string]string{
		"reaches number 6":  "K\x01(K\x06t(K\x01t",
		"negative or too l": "K\x00(J\xff\xff\xff\xfft(K\x01t",
		"too large":         "K\x00(K\x03t(" + big + "t",
		"or too large":      "K\x00(" + big + big + "t(K\x00K\x00t",
		"in a file of":      "K\x00(J\x00\x00\x00\x7ft(K\x00t",
		"offset -1":         "J\xff\xff\xff\xff(K\x01t(K\x01t",
		"strides [1 1]":     "K\x00(K\x01t(K\x01K\x01t",
		"dimensions, at m":  "K\x00(" + strings.Repeat("K\x01", 17) + "t(" + strings.Repeat("K\x01", 17) + "t",
		"among integers":    "K\x00(Nt(K\x01t",
	} {
		if _, err := read(file(rest)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", rest, err, want)
		}
	}
	damaged := file("K\x00(K\x06t(K\x01t\x89")
	at := bytes.Index(damaged, values)
	damaged[at]++
	root, err = read(damaged)
	if err == nil {
		err = root.(*Tensor).Floats(make([]float32, 6))
	}
	if err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a changed number: got %v, want an error that says the file is damaged", err)
	}
}

func TestBadArchives(t *testing.T) {
	none := member{name: "a/data.pkl", data: pickled("N.")}
	if v, err := read(archive(t, none)); err != nil || v != (None{}) {
		t.Fatalf("a plain archive: %v, %v", v, err)
	}
	zeros := make([]byte, 1<<20)
	for want, file := range map[string][]byte{
		"is compressed":                archive(t, none, member{name: "a/data/0", data: zeros, method: zip.Deflate}),
		"there twice":                  archive(t, none, none),
		"which is the checkpoint":      archive(t, none, member{name: "b/data.pkl", data: none.data}),
		"without a data.pkl":           archive(t, member{name: "a/data", data: none.data}),
		"TorchScript":                  archive(t, none, member{name: "a/constants.pkl"}),
		"byte order \"big\"":           archive(t, none, member{name: "a/byteorder", data: []byte("big")}),
		"33554433 bytes, at most":      archive(t, member{name: "a/data.pkl", data: make([]byte, maxPickleBytes+1)}),
		"no such member":               archive(t, member{name: "a/data.pkl", data: tensorOf(6, "K\x00))")}),
		"need 24 bytes, the member ha": archive(t, member{name: "a/data.pkl", data: tensorOf(6, "K\x00))")}, member{name: "a/data/0", data: zeros[:23]}),
		"more than 2097152 opcodes":    archive(t, member{name: "a/data.pkl", data: pickled(strings.Repeat("N0", 1<<20) + "N.")}),
		"zip directory":                archive(t, none)[:60],
		"are no file of torch.save":    []byte("hello, this is a text"),
		"tar archive":                  append(append(make([]byte, 257), "ustar"...), make([]byte, 250)...),
		"magic number":                 pickled("N."),
		"are no file":                  {},
	} {
		if _, err := read(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	// Two members that claim the same bytes.
	overlapping := archive(t, none, member{name: "a/data/0", data: zeros[:64]}, member{name: "a/data/1", data: zeros[:64]})
	directory := bytes.LastIndex(overlapping, []byte("PK\x01\x02")) // of a/data/1
	first := bytes.Index(overlapping, []byte("a/data/0")) - 30
	binary.LittleEndian.PutUint32(overlapping[directory+42:], uint32(first))
	if _, err := read(overlapping); err == nil || !strings.Contains(err.Error(), "inside another") {
		t.Errorf("overlapping members: got %v", err)
	}
}

func TestLegacyStorages(t *testing.T) {
	head := slices.Concat(pickled("\x8a\x0a"+string(legacyMagic)+"."), pickled("M\xe9\x03."), pickled("}(X\x0d\x00\x00\x00little_endian\x88u."))
	root := tensorOf(2, "K\x00(K\x02t(K\x01t\x89")
	keys := pickled("](X\x01\x00\x00\x000e.")
	length := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	good := slices.Concat(head, root, keys, length(2), []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0x40})
	v, err := read(good)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]float32, 2)
	if err := v.(*Tensor).Floats(got); err != nil || !slices.Equal(got, []float32{1, 2}) {
		t.Errorf("%v (%v), want [1 2]", got, err)
	}
	for want, file := range map[string][]byte{
		"is cut short":       good[:len(good)-1],
		"length 3":           slices.Concat(head, root, keys, length(3), make([]byte, 12)),
		"is not in the file": slices.Concat(head, root, pickled("].")),
		"no storage of":      slices.Concat(head, root, pickled("](X\x01\x00\x00\x001e.")),
		"or there twice":     slices.Concat(head, root, pickled("](X\x01\x00\x00\x000X\x01\x00\x00\x000e."), length(2), make([]byte, 8)),
		"protocol 7":         slices.Concat(pickled("\x8a\x0a"+string(legacyMagic)+"."), pickled("K\x07.")),
		"little-endian":      slices.Concat(pickled("\x8a\x0a"+string(legacyMagic)+"."), pickled("M\xe9\x03."), pickled("}.")),
	} {
		if _, err := read(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestHalf(t *testing.T) {
	for h, want := range map[uint16]float32{0: 0, 0x3c00: 1, 0xc000: -2, 1: 1.0 / (1 << 24), 0x03ff: 1023.0 / (1 << 24), 0x7bff: 65504, 0x0400: 1.0 / (1 << 14)} {
		if got := half(h); got != want {
			t.Errorf("half %04x is %v, want %v", h, got, want)
		}
	}
	if !math.IsInf(float64(half(0xfc00)), -1) || !math.IsNaN(float64(half(0x7e00))) || math.Signbit(float64(half(0x8000))) != true {
		t.Error("infinity, NaN or -0 is lost")
	}
}

// What is written is read again, and twice the same bytes.
func TestWrite(t *testing.T) {
	state := &Dict{}
	saved := func(x ...float32) *Saved {
		return &Saved{Shape: []int{1, len(x)}, Read: func(dst []float32) error { copy(dst, x); return nil }}
	}
	state.Set("a.weight", saved(1, -2, 3.5))
	state.Set("b", saved(7))
	root := &Dict{}
	root.Set("encoder", state)
	root.Set("epoch", Int(300))
	root.Set("big", Int(1<<40))
	root.Set("loss", Float(0.25))
	root.Set("opt", None{})
	root.Set("list", &List{[]Value{Bool(true), &Tuple{[]Value{String("x")}}}})
	var b, again bytes.Buffer
	for _, out := range []*bytes.Buffer{&b, &again} {
		if err := Write(out, root); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("the same contents gave other bytes")
	}
	v, err := read(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	d := v.(*Dict)
	x := d.Get("encoder").(*Dict).Get("a.weight").(*Tensor)
	got := make([]float32, 3)
	if err := x.Floats(got); err != nil || !slices.Equal(got, []float32{1, -2, 3.5}) || !slices.Equal(x.Shape, []int{1, 3}) {
		t.Errorf("tensor %v %v (%v)", x.Shape, got, err)
	}
	if x.storage.at%alignment != 0 {
		t.Errorf("storage at byte %d, want a multiple of %d", x.storage.at, alignment)
	}
	if d.Get("epoch") != Int(300) || d.Get("big") != Int(1<<40) || d.Get("loss") != Float(0.25) || d.Get("opt") != (None{}) {
		t.Errorf("read %v", d.Items)
	}
	if l := d.Get("list").(*List); l.Items[0] != Bool(true) || l.Items[1].(*Tuple).Items[0] != String("x") {
		t.Errorf("list %v", l.Items)
	}
	if err := Write(&b, Long{1}); err == nil {
		t.Error("a value that cannot be written: no error")
	}
}

// A pickle of a megabyte must not take a hundred times its size.
func TestMemoryIsBounded(t *testing.T) {
	for name, p := range map[string]string{
		"one list, many dicts": "](" + strings.Repeat("N\x85", 1<<15) + "eq\x000" + strings.Repeat("ccollections\nOrderedDict\nh\x00\x85R0", 1<<12) + "N.",
		"marks":                strings.Repeat("(", 1<<18) + ".",
		"nested lists":         strings.Repeat("]", 1<<18) + ".",
		"memo":                 "N" + strings.Repeat("\x94", 1<<18) + ".",
	} {
		file := archive(t, member{name: "a/data.pkl", data: pickled(p)})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = read(file)
		runtime.ReadMemStats(&after)
		if taken := after.TotalAlloc - before.TotalAlloc; taken > 100<<20 {
			t.Errorf("%s: %d MiB were allocated for a pickle of %d KiB", name, taken>>20, len(p)>>10)
		}
	}
}

// FuzzRead: whatever the bytes, an error or a value whose tensors can be read, and no panic.
func FuzzRead(f *testing.F) {
	f.Add(archive(f, member{name: "a/data.pkl", data: tensorOf(2, "K\x00(K\x02t(K\x01t\x89")}, member{name: "a/data/0", data: make([]byte, 8)}))
	f.Add(slices.Concat(pickled("\x8a\x0a"+string(legacyMagic)+"."), pickled("M\xe9\x03."), pickled("}(X\x0d\x00\x00\x00little_endian\x88u."),
		tensorOf(2, "K\x00(K\x02t(K\x01t\x89"), pickled("](X\x01\x00\x00\x000e."), binary.LittleEndian.AppendUint64(nil, 2), make([]byte, 8)))
	f.Add(archive(f, member{name: "a/data.pkl", data: pickled("}(X\x01\x00\x00\x00a](N)\x86l\x94h\x00eu.")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := read(b)
		if err == nil {
			readAll(t, v, 0)
		}
	})
}

// FuzzPickle is FuzzRead without an archive around the pickle.
func FuzzPickle(f *testing.F) {
	f.Add(tensorOf(2, "K\x00(K\x02t(K\x01t\x89"))
	f.Add(pickled("(lp0\n(dp1\nS'a'\nI01\ns(I2\nL3L\nF4.5\ntp2\n."))
	f.Add([]byte("\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94K\x01\x8c\x01b\x94\x8f(K\x02\x90u."))
	f.Add(pickled("ccollections\nOrderedDict\n(](](X\x01\x00\x00\x00aK\x01eetR}(X\x01\x00\x00\x00bNub."))
	f.Fuzz(func(t *testing.T, b []byte) {
		file := make([]byte, 64)
		m := machine{data: b, storage: func(_ string, of DType, n int64) (*storage, error) {
			if n*int64(of.Bytes()) > int64(len(file)) {
				return nil, errors.New("too large")
			}
			return &storage{r: bytes.NewReader(file), n: n, of: of, file: int64(len(file))}, nil
		}}
		v, err := m.run()
		if err == nil {
			readAll(t, v, 0)
		}
	})
}

// readAll reads every tensor below v, to a depth.
func readAll(t *testing.T, v Value, depth int) {
	var items []Value
	switch v := v.(type) {
	case *List:
		items = v.Items
	case *Tuple:
		items = v.Items
	case *Set:
		items = v.Items
	case *Dict:
		for _, item := range v.Items {
			items = append(items, item.Key, item.Value)
		}
	case *Tensor:
		var err error
		if v.DType.Floating() {
			err = v.Floats(make([]float32, v.Size()))
		} else {
			err = v.Ints(make([]int64, v.Size()))
		}
		if err != nil && !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", describe(v), err)
		}
	}
	if depth < 4 && len(items) < 100 {
		for _, item := range items {
			readAll(t, item, depth+1)
		}
	}
}
