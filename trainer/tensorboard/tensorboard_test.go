package tensorboard

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

var at = time.Unix(1_700_000_000, 250_000_000)

func write(t *testing.T, dir string, steps ...int) string {
	t.Helper()
	w, err := Create(dir, at)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if err := w.Add(s, at.Add(time.Duration(s)*time.Second), map[string]float64{"train/loss": 1 / float64(s+1), "eval/accuracy": 0.5}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names[len(names)-1]
}

// bitwiseCRC is CRC-32C worked out a bit at a time (RFC 3720, appendix B.4), and masked.
func bitwiseCRC(data []byte) uint32 {
	c := ^uint32(0)
	for _, b := range data {
		c ^= uint32(b)
		for range 8 {
			c = c>>1 ^ 0x82f63b78*(c&1)
		}
	}
	c = ^c
	return (c>>15 | c<<17) + 0xa282ead8
}

// Files are read here with another checksum and another parser than they were written with.
func TestWrittenFilesAreEventFiles(t *testing.T) {
	// The published check value of CRC-32C (RFC 3720: 32 bytes of zeros give 8a9136aa).
	c := uint32(0x8a9136aa)
	if got := bitwiseCRC(make([]byte, 32)); got != (c>>15|c<<17)+0xa282ead8 {
		t.Fatalf("the test's own checksum is wrong: %08x", got)
	}
	data, err := os.ReadFile(write(t, t.TempDir(), 0, 7))
	if err != nil {
		t.Fatal(err)
	}
	type figure struct {
		wall  float64
		step  uint64
		tag   string
		value float32
	}
	var figures []figure
	var version string
	for record := 0; len(data) > 0; record++ {
		n := binary.LittleEndian.Uint64(data)
		if binary.LittleEndian.Uint32(data[8:]) != bitwiseCRC(data[:8]) || binary.LittleEndian.Uint32(data[12+n:]) != bitwiseCRC(data[12:12+n]) {
			t.Fatalf("record %d has a wrong checksum", record)
		}
		event := data[12 : 12+n]
		data = data[16+n:]
		var f figure
		for len(event) > 0 {
			num, kind, n := protowire.ConsumeTag(event)
			event = event[n:]
			switch num {
			case 1:
				bits, n := protowire.ConsumeFixed64(event)
				f.wall, event = math.Float64frombits(bits), event[n:]
			case 2:
				f.step, n = protowire.ConsumeVarint(event)
				event = event[n:]
			case 3:
				version, n = protowire.ConsumeString(event)
				event = event[n:]
			case 5:
				summary, n := protowire.ConsumeBytes(event)
				event = event[n:]
				for len(summary) > 0 {
					_, _, n := protowire.ConsumeTag(summary)
					one, m := protowire.ConsumeBytes(summary[n:])
					summary = summary[n+m:]
					_, _, n = protowire.ConsumeTag(one)
					f.tag, m = protowire.ConsumeString(one[n:])
					one = one[n+m:]
					num, kind, n := protowire.ConsumeTag(one)
					bits, _ := protowire.ConsumeFixed32(one[n:])
					if num != 2 || kind != protowire.Fixed32Type {
						t.Fatalf("a value has field %d of type %d", num, kind)
					}
					f.value = math.Float32frombits(bits)
					figures = append(figures, f)
				}
			default:
				t.Fatalf("field %d of type %d", num, kind)
			}
		}
	}
	want := []figure{{1_700_000_000.25, 0, "eval/accuracy", 0.5}, {1_700_000_000.25, 0, "train/loss", 1},
		{1_700_000_007.25, 7, "eval/accuracy", 0.5}, {1_700_000_007.25, 7, "train/loss", 0.125}}
	if version != "brain.Event:2" || !reflect.DeepEqual(figures, want) {
		t.Errorf("version %q, figures %v, want %v", version, figures, want)
	}
}

func steps(points []Point) (out []int) {
	for _, p := range points {
		out = append(out, p.Step)
	}
	return out
}

// A resumed run begins a new file; what it does again replaces what was lost.
func TestReadJoinsResumedRuns(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, 1, 2, 3, 4, 5)
	write(t, dir, 4, 5, 6)
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(steps(got["train/loss"]), []int{1, 2, 3, 4, 5, 6}) || got["train/loss"][3].Value != float64(float32(0.2)) {
		t.Errorf("got %v", got)
	}
	write(t, dir) // a run that was killed before its first step
	if again, err := Read(dir); err != nil || !reflect.DeepEqual(got, again) {
		t.Errorf("with an empty file: %v, %v", again, err)
	}
}

// What a full disk cuts off must stay the end of its file, though there may be room again for the next record.
func TestNothingFollowsARecordThatCouldNotBeWritten(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(dir, at)
	if err != nil {
		t.Fatal(err)
	}
	add := func(step int) error { return w.Add(step, at, map[string]float64{"train/loss": 1}) }
	if err := add(1); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("needs a device without room: %v", err)
	}
	file := w.file
	w.file = full
	first := add(2)
	if first == nil || full.Close() != nil {
		t.Fatalf("writing to a full device: %v", first)
	}
	if _, err := file.Write([]byte("cut")); err != nil { // as much of it as there was room for
		t.Fatal(err)
	}
	w.file = file
	if err := add(3); err == nil || err.Error() != first.Error() {
		t.Errorf("writing after a write that failed: %v, want %v", err, first)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(dir); err != nil || !slices.Equal(steps(got["train/loss"]), []int{1}) {
		t.Errorf("got %v, %v", got, err)
	}
}

// A run may go on on a machine whose clock is behind that of the one before.
func TestAClockThatIsBehindDoesNotUndoARun(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, 1, 2, 3, 4, 5)
	w, err := Create(dir, at.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []int{4, 5, 6} {
		if err := w.Add(s, at.Add(-time.Hour), map[string]float64{"train/loss": 0.25}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if loss := got["train/loss"]; !slices.Equal(steps(loss), []int{1, 2, 3, 4, 5, 6}) || loss[2].Value != float64(float32(0.25)) || loss[3].Value != 0.25 || loss[5].Value != 0.25 {
		t.Errorf("got %v", loss)
	}
}

func TestReadOfDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	name := write(t, dir, 1, 2, 3)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		if err := os.WriteFile(name, whole[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := Read(dir)
		if err != nil || len(got["train/loss"]) > 2 {
			t.Fatalf("cut off after %d bytes: %v, %v", cut, got, err)
		}
	}
	for i := range whole {
		bad := slices.Clone(whole)
		bad[i] ^= 0x10
		if err := os.WriteFile(name, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "checksum") {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	long := appendRecord(nil, nil)
	binary.LittleEndian.PutUint64(long, 1<<40)
	binary.LittleEndian.PutUint32(long[8:], masked(long[:8]))
	if err := os.WriteFile(name, long, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "want at most") {
		t.Errorf("a record of a terabyte: %v", err)
	}
	if _, err := Read(t.TempDir()); err == nil || !strings.Contains(err.Error(), "none in") {
		t.Errorf("an empty folder: %v", err)
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add(event{wall: 1, step: 2, values: []value{{"loss", 0.5}}}.append(nil))
	f.Add(event{version: "brain.Event:2"}.append(nil))
	f.Add([]byte{key(5, bytes), 200, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseEvent(data)
		if err != nil {
			return
		}
		again, err := parseEvent(e.append(nil))
		if err != nil || len(again.values) != len(e.values) || again.step != e.step || again.version != e.version {
			t.Errorf("%v became %v (%v)", e, again, err)
		}
	})
}
