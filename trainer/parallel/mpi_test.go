//go:build mpi

package parallel

import (
	"os"
	"strings"
	"testing"
)

// The tests run in every process that mpirun starts: see `make test-mpi`. All of them join once.
var group Group

func TestMain(m *testing.M) {
	g, leave, err := Join()
	if err != nil {
		panic(err)
	}
	group = g
	code := m.Run()
	if err := leave(); err != nil {
		panic(err)
	}
	os.Exit(code)
}

func TestGroup(t *testing.T) {
	size, rank := group.Size(), group.Rank()
	if want := os.Getenv("OMPI_COMM_WORLD_SIZE"); want == "1" || want == "" {
		t.Fatalf("this test is for several processes: mpirun -n 2; OMPI_COMM_WORLD_SIZE is %q", want)
	}
	if rank < 0 || rank >= size {
		t.Fatalf("process %d of %d", rank, size)
	}
	sum := size * (size + 1) / 2

	floats := make([]float32, 100_000)
	for i := range floats {
		floats[i] = float32((rank + 1) * (i % 1000))
	}
	if err := group.AddFloats(floats); err != nil {
		t.Fatal(err)
	}
	for i, x := range floats {
		if want := float32(sum * (i % 1000)); x != want {
			t.Fatalf("float %d is %g, want %g", i, x, want)
		}
	}
	doubles := []float64{float64(rank + 1), 1e300 * float64(rank)}
	if err := group.AddDoubles(doubles); err != nil {
		t.Fatal(err)
	}
	if doubles[0] != float64(sum) || doubles[1] != 1e300*float64(sum-size) {
		t.Errorf("doubles are %g, want %d and %g", doubles, sum, 1e300*float64(sum-size))
	}
	text := []byte(strings.Repeat(string(rune('a'+rank)), 1000))
	if err := group.Broadcast(text); err != nil {
		t.Fatal(err)
	}
	if got := strings.Trim(string(text), "a"); got != "" {
		t.Errorf("broadcast gave %.20q, want the first process's", got)
	}
	if err := group.AddFloats(nil); err != nil {
		t.Errorf("nothing to add: %v", err)
	}
}

func TestSame(t *testing.T) {
	if err := Same(group, "a number", 1<<32-1); err != nil {
		t.Error(err)
	}
	if err := Same(group, "the seed", uint32(group.Rank())); err == nil || !strings.Contains(err.Error(), "the seed: the ") {
		t.Errorf("process %d: %v, want it to name the seed", group.Rank(), err)
	}
}
