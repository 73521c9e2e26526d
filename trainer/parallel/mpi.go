//go:build mpi

package parallel

/*
#cgo pkg-config: ompi-c
#include <mpi.h>

// Macros of mpi.h that cgo cannot read, and calls that read them.
static int add_floats(void *values, int n) {
	return MPI_Allreduce(MPI_IN_PLACE, values, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}
static int add_doubles(void *values, int n) {
	return MPI_Allreduce(MPI_IN_PLACE, values, n, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}
static int broadcast(void *values, int n) { return MPI_Bcast(values, n, MPI_BYTE, 0, MPI_COMM_WORLD); }
static int rank(int *out) { return MPI_Comm_rank(MPI_COMM_WORLD, out); }
static int size(int *out) { return MPI_Comm_size(MPI_COMM_WORLD, out); }
static int return_errors(void) { return MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN); }
static void end_all(int code) { MPI_Abort(MPI_COMM_WORLD, code); }
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"
)

// largest is how many values go into one call: MPI counts in 32 bits.
const largest = 1 << 28

// Join makes this process part of the group that MPI started it in: by mpirun, or by srun --mpi. Leave ends that, once,
// on all of them. Started by neither, the process is a group of its own.
func Join() (g Group, leave func() error, err error) {
	m := &mpi{calls: make(chan func(), 1), ended: make(chan struct{})}
	go m.thread()
	var provided C.int
	err = m.do("MPI_Init_thread", func() C.int {
		if code := C.MPI_Init_thread(nil, nil, C.MPI_THREAD_FUNNELED, &provided); code != C.MPI_SUCCESS {
			return code
		}
		if code := C.return_errors(); code != C.MPI_SUCCESS {
			return code
		}
		if code := C.rank(&m.rank); code != C.MPI_SUCCESS {
			return code
		}
		return C.size(&m.size)
	})
	leave = func() error {
		defer m.stop()
		return m.do("MPI_Finalize", func() C.int { return C.MPI_Finalize() })
	}
	switch {
	case err != nil:
		m.stop()
		return nil, nil, err
	case provided < C.MPI_THREAD_FUNNELED: // Go's other threads must not matter to it
		return nil, nil, errors.Join(errors.New("MPI: this library is for programs of one thread only"), leave())
	}
	return m, leave, nil
}

// mpi has one OS thread make all calls, which is what MPI_THREAD_FUNNELED asks for.
type mpi struct {
	calls      chan func()
	ended      chan struct{}
	rank, size C.int
}

func (m *mpi) thread() {
	defer close(m.ended)
	runtime.LockOSThread() // never unlocked: it ends with the goroutine
	for call := range m.calls {
		call()
	}
}

func (m *mpi) stop() {
	close(m.calls)
	<-m.ended
}

func (m *mpi) do(what string, call func() C.int) error {
	done := make(chan error, 1)
	m.calls <- func() {
		code := call()
		if code == C.MPI_SUCCESS {
			done <- nil
			return
		}
		var text [C.MPI_MAX_ERROR_STRING]C.char
		var length C.int
		C.MPI_Error_string(code, &text[0], &length)
		done <- fmt.Errorf("%s: %s", what, C.GoStringN(&text[0], length))
	}
	return <-done
}

func (m *mpi) Rank() int { return int(m.rank) }
func (m *mpi) Size() int { return int(m.size) }

func (m *mpi) AddFloats(values []float32) error {
	return inParts(values, func(part []float32) error {
		return m.do("MPI_Allreduce", func() C.int { return C.add_floats(unsafe.Pointer(&part[0]), C.int(len(part))) })
	})
}

func (m *mpi) AddDoubles(values []float64) error {
	return inParts(values, func(part []float64) error {
		return m.do("MPI_Allreduce", func() C.int { return C.add_doubles(unsafe.Pointer(&part[0]), C.int(len(part))) })
	})
}

func (m *mpi) Broadcast(values []byte) error {
	return inParts(values, func(part []byte) error {
		return m.do("MPI_Bcast", func() C.int { return C.broadcast(unsafe.Pointer(&part[0]), C.int(len(part))) })
	})
}

func inParts[T any](values []T, do func(part []T) error) error {
	for len(values) > 0 {
		n := min(len(values), largest)
		if err := do(values[:n]); err != nil {
			return err
		}
		values = values[n:]
	}
	return nil
}

// Abort does not go through the thread, which may be waiting for the very process that will never come.
func (m *mpi) Abort(err error) {
	fmt.Fprintf(os.Stderr, "process %d of %d ends the run: %v\n", m.rank, m.size, err)
	C.end_all(1)
}
