package pjrt

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
)

// Executable is a program that is ready to run.
type Executable struct {
	client  *Client
	handle  handle
	outputs int
	memory  CompiledMemory
	planned bool // memory is known

	mu   sync.Mutex
	uses int // calls of Execute under way
	shut bool
}

// CompiledMemory is device memory that a program takes when it runs, bytes.
type CompiledMemory struct {
	Arguments, Outputs int64
	Aliased            int64 // part of Outputs that lies in the memory of donated arguments
	Temporary, Code    int64
}

func (x *Executable) describe() error {
	p := x.client.plugin
	inner := handleOf{object: x.handle}
	if err := call(p, loadedExecutableGetExecutable, &inner); err != nil {
		return err
	}
	count := countOf{executable: inner.result}
	err := call(p, executableNumOutputs, &count)
	if err == nil {
		err = x.readMemory(inner.result)
	}
	if err == nil && count.count > maxOutputs {
		err = fmt.Errorf("it has %d outputs, more than %d", count.count, maxOutputs)
	}
	x.outputs = int(min(count.count, maxOutputs))
	return errors.Join(err, call(p, executableDestroy, &ofHandle{object: inner.result}))
}

const maxOutputs = 1 << 20

func (x *Executable) readMemory(inner handle) error {
	args := compiledMemoryArgs{executable: inner}
	err := call(x.client.plugin, executableGetCompiledMemoryStats, &args)
	var e *Error
	if errors.As(err, &e) && e.Code == Unimplemented {
		return nil
	}
	x.planned = err == nil
	x.memory = CompiledMemory{Arguments: args.arguments, Outputs: args.outputs, Aliased: args.aliased, Temporary: args.scratch, Code: args.code}
	return err
}

// Outputs is how many results a run gives.
func (x *Executable) Outputs() int { return x.outputs }

// Memory is what the compiler planned; ok is false where the plugin does not say.
func (x *Executable) Memory() (m CompiledMemory, ok bool) { return x.memory, x.planned }

// Execute starts the program on arguments and does not wait: outputs can be passed on at once, and Pending says how the
// run ended. donated lists the arguments, by index, whose memory the program may reuse; they are used up, and closed when
// it has started. After an error nothing runs; donated buffers are still open, and whether they can still be used is for
// the plugin to say.
func (x *Executable) Execute(arguments []*Buffer, donated []int) (outputs []*Buffer, run *Pending, err error) {
	if err := x.acquire(); err != nil {
		return nil, nil, fmt.Errorf("running a program: %w", err)
	}
	defer x.release()
	if err := x.client.acquire(arguments, donated); err != nil {
		return nil, nil, fmt.Errorf("running a program: %w", err)
	}
	outputs, run, err = x.start(arguments, donated)
	if err != nil {
		x.client.release(arguments)
		return nil, nil, fmt.Errorf("running a program: %w", err)
	}
	if err := x.client.consume(arguments, donated); err != nil {
		for _, b := range outputs {
			err = errors.Join(err, b.Close())
		}
		return nil, nil, fmt.Errorf("running a program: giving back donated arguments: %w", err)
	}
	return outputs, run, nil
}

func (x *Executable) start(arguments []*Buffer, donated []int) ([]*Buffer, *Pending, error) {
	in := make([]handle, len(arguments)+1) // one more, so that there is an address
	for i, b := range arguments {
		in[i] = b.handle
	}
	out := make([]handle, x.outputs+1)
	var complete handle
	inLists, outLists := [1]*handle{&in[0]}, [1]*handle{&out[0]}

	// All others are named as not donated: the compiler only said which may be.
	var kept []int64
	for i := range arguments {
		if !slices.Contains(donated, i) {
			kept = append(kept, int64(i))
		}
	}
	options := executeOptions{notDonatedCount: uintptr(len(kept))}
	if len(kept) > 0 {
		options.notDonated = &kept[0]
	}
	args := executeArgs{
		executable: x.handle, options: pad(x.client.plugin, options),
		arguments: &inLists[0], devices: 1, count: uintptr(len(arguments)),
		outputs: &outLists[0], complete: &complete,
	}
	if err := call(x.client.plugin, loadedExecutableExecute, &args); err != nil {
		return nil, nil, err
	}
	run := x.client.follow(complete, new(runtime.Pinner))
	buffers := make([]*Buffer, x.outputs)
	for i := range buffers {
		buffers[i] = x.client.newBuffer(out[i])
	}
	return buffers, run, nil
}

func (x *Executable) acquire() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.shut {
		return errClosed
	}
	x.uses++
	return nil
}

func (x *Executable) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.uses--
}

// Close gives the program back. Runs that were started go on. Closing it again does nothing.
func (x *Executable) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.shut:
		return nil
	case x.uses > 0:
		return fmt.Errorf("closing a program: it is being started by %d calls", x.uses)
	}
	x.shut = true
	forget(x)
	defer x.client.add(&x.client.executables, -1)
	if err := call(x.client.plugin, loadedExecutableDestroy, &ofHandle{object: x.handle}); err != nil {
		return fmt.Errorf("closing a program: %w", err)
	}
	return nil
}
