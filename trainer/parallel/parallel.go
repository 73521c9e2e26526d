// Package parallel joins processes that train one model together, each on its share of every batch.
//
//	parallel.go  what a group of processes can do
//	mpi.go       a group of MPI's processes; with build tag mpi
//	none.go      what is there without that tag
package parallel

import (
	"errors"
	"fmt"
)

// Group is the processes of one run, as one of them sees it. All of them make the same calls in the same order, with as
// many values; a call returns when this process has its result. It is used from one goroutine at a time. After an error
// the group is of no use any more.
type Group interface {
	Rank() int // of this process, from 0
	Size() int // processes
	// AddFloats and AddDoubles replace values by their sums over all processes. Each gets the same bits.
	AddFloats(values []float32) error
	AddDoubles(values []float64) error
	// Broadcast replaces values by those of the process of rank 0.
	Broadcast(values []byte) error
	// Abort ends the processes of the group, this one included, because one of them cannot go on: the others would wait for
	// it for ever. What a group in one process does instead is to fail all calls.
	Abort(err error)
}

// ErrNotBuilt says that this program was built without MPI.
var ErrNotBuilt = errors.New("this program was built without MPI: make mpi builds bin/surmise-mpi, with it")

// Same fails on every process if number, which should be the same on all, is not. what names it.
func Same(g Group, what string, number uint32) error {
	// Unless all are the same, one of them is not the mean; sums of 32-bit numbers are exact in a float64.
	sum := []float64{float64(number)}
	if err := g.AddDoubles(sum); err != nil {
		return fmt.Errorf("compare %s with the other processes: %w", what, err)
	}
	differs := []float64{0}
	if sum[0] != float64(g.Size())*float64(number) {
		differs[0] = 1
	}
	if err := g.AddDoubles(differs); err != nil {
		return fmt.Errorf("compare %s with the other processes: %w", what, err)
	}
	if differs[0] > 0 {
		return fmt.Errorf("%s: the %d processes do not have the same", what, g.Size())
	}
	return nil
}
