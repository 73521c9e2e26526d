package pjrt

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"unsafe"
)

// Type is an element type of a tensor.
type Type int32

// Element types that are used here.
const (
	Pred Type = 1 // a byte
	S32  Type = 4
	U8   Type = 6
	F32  Type = 11
	BF16 Type = 13
)

// Size is an element's bytes; 0 for a type that is not used here.
func (t Type) Size() int {
	switch t {
	case Pred, U8:
		return 1
	case BF16:
		return 2
	case S32, F32:
		return 4
	}
	return 0
}

// Buffer is a tensor on a device.
type Buffer struct {
	client *Client
	handle handle

	// Under client.mu:
	uses int // calls under way
	shut bool
}

func (c *Client) newBuffer(h handle) *Buffer {
	b := &Buffer{client: c, handle: h}
	c.add(&c.buffers, 1)
	reportLeak(b, "buffer")
	return b
}

// How long the plugin may read the caller's memory: during the call, or until it says that it is done.
const (
	immutableOnlyDuringCall         = 0
	immutableUntilTransferCompletes = 1
)

// Upload starts copying a dense, row-major tensor to a device. Until Pending is over, data must not change. The buffer can
// be used at once.
func (d *Device) Upload(t Type, dims []int, data []byte) (*Buffer, *Pending, error) {
	return d.upload(t, dims, data, immutableUntilTransferCompletes)
}

// UploadCopy is Upload of data that may change as soon as it returns: the plugin copies it first. A transfer waits for what
// the device is doing, so who waits for transfers leaves the device idle while the next is made ready.
func (d *Device) UploadCopy(t Type, dims []int, data []byte) (*Buffer, *Pending, error) {
	return d.upload(t, dims, data, immutableOnlyDuringCall)
}

func (d *Device) upload(t Type, dims []int, data []byte, semantics int32) (*Buffer, *Pending, error) {
	size, err := sizeOf(t, dims)
	if err == nil && size != len(data) {
		err = fmt.Errorf("%d bytes, want %d", len(data), size)
	}
	if err == nil {
		err = d.client.enter()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("uploading a tensor %v: %w", dims, err)
	}
	defer d.client.leave()
	pins := new(runtime.Pinner)
	args := bufferFromHostArgs{
		client: d.client.handle, data: pinnedBytes(data, pins), kind: t, dimCount: uintptr(len(dims)),
		semantics: semantics, device: d.handle,
	}
	if len(dims) > 0 {
		args.dims = &int64s(dims)[0]
	}
	if err := call(d.client.plugin, clientBufferFromHostBuffer, &args); err != nil {
		pins.Unpin()
		return nil, nil, fmt.Errorf("uploading a tensor %v of %d bytes: %w", dims, size, err)
	}
	b := d.client.newBuffer(args.buffer)
	return b, d.client.follow(args.doneReading, pins), nil
}

// Download starts copying the tensor, dense and row-major, to dst, which has its exact size. Until Pending is over, dst
// must not be touched.
func (b *Buffer) Download(dst []byte) (*Pending, error) {
	done, err := b.use()
	if err != nil {
		return nil, fmt.Errorf("downloading a tensor: %w", err)
	}
	defer done()
	t, dims, err := b.shape()
	if err != nil {
		return nil, fmt.Errorf("downloading a tensor: %w", err)
	}
	size, err := sizeOf(t, dims)
	if err == nil && size != len(dst) {
		err = fmt.Errorf("%d bytes of room, want %d", len(dst), size)
	}
	if err != nil {
		return nil, fmt.Errorf("downloading a tensor %v: %w", dims, err)
	}
	// Row-major is asked for: without a layout the bytes would come in whatever order the compiler chose for the device.
	layout := memoryLayout{tiled: tiledLayout{count: uintptr(len(dims))}}
	layout.tiled.size = unsafe.Sizeof(layout.tiled)
	if len(dims) > 0 {
		order := make([]int64, len(dims))
		for i := range order {
			order[i] = int64(len(dims) - 1 - i)
		}
		layout.tiled.minorToMajor = &order[0]
	}
	pins := new(runtime.Pinner)
	args := toHostArgs{buffer: b.handle, layout: pad(b.client.plugin, layout), data: pinnedBytes(dst, pins), size: uintptr(size)}
	if err := call(b.client.plugin, bufferToHostBuffer, &args); err != nil {
		pins.Unpin()
		return nil, fmt.Errorf("downloading a tensor %v of %d bytes: %w", dims, size, err)
	}
	return b.client.follow(args.event, pins), nil
}

// Ready says when the tensor is there, and whether what should have computed it failed.
func (b *Buffer) Ready() (*Pending, error) {
	done, err := b.use()
	if err != nil {
		return nil, fmt.Errorf("waiting for a tensor: %w", err)
	}
	defer done()
	args := handleOf{object: b.handle}
	if err := call(b.client.plugin, bufferReadyEvent, &args); err != nil {
		return nil, fmt.Errorf("waiting for a tensor: %w", err)
	}
	return b.client.follow(args.result, new(runtime.Pinner)), nil
}

// Shape asks for the element type and the sizes.
func (b *Buffer) Shape() (Type, []int, error) {
	done, err := b.use()
	if err != nil {
		return 0, nil, fmt.Errorf("asking for the shape of a tensor: %w", err)
	}
	defer done()
	t, dims, err := b.shape()
	if err != nil {
		return 0, nil, fmt.Errorf("asking for the shape of a tensor: %w", err)
	}
	return t, dims, nil
}

func (b *Buffer) shape() (Type, []int, error) {
	kind := numberOf{object: b.handle}
	if err := call(b.client.plugin, bufferElementType, &kind); err != nil {
		return 0, nil, err
	}
	sizes := dimensionsArgs{buffer: b.handle}
	if err := call(b.client.plugin, bufferDimensions, &sizes); err != nil {
		return 0, nil, err
	}
	if sizes.count > maxDims {
		return 0, nil, fmt.Errorf("it has %d dimensions", sizes.count)
	}
	dims := make([]int, sizes.count)
	if len(dims) > 0 {
		for i, n := range unsafe.Slice(sizes.dims, sizes.count) {
			dims[i] = int(n)
		}
	}
	return Type(kind.number), dims, nil
}

const maxDims = 64

// Close gives the memory back, once the work that was started on it is over. Closing it again does nothing, as does
// closing a buffer that was donated.
func (b *Buffer) Close() error {
	b.client.mu.Lock()
	if b.shut {
		b.client.mu.Unlock()
		return nil
	}
	if b.uses > 0 {
		defer b.client.mu.Unlock()
		return fmt.Errorf("closing a buffer: it is in use by %d calls", b.uses)
	}
	b.shut = true
	b.client.mu.Unlock()
	return b.destroy()
}

func (b *Buffer) destroy() error {
	forget(b)
	defer b.client.add(&b.client.buffers, -1)
	if err := call(b.client.plugin, bufferDestroy, &ofHandle{object: b.handle}); err != nil {
		return fmt.Errorf("closing a buffer: %w", err)
	}
	return nil
}

// use keeps the buffer open until done is called.
func (b *Buffer) use() (done func(), err error) {
	b.client.mu.Lock()
	defer b.client.mu.Unlock()
	if b.shut {
		return nil, errClosed
	}
	b.uses++
	return func() { b.client.add(&b.uses, -1) }, nil
}

// acquire keeps arguments of a run open. Donated ones must have no other use, then or in the same run.
func (c *Client) acquire(arguments []*Buffer, donated []int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, b := range arguments {
		switch {
		case b.client != c:
			return fmt.Errorf("argument %d is of another client", i)
		case b.shut:
			return fmt.Errorf("argument %d: %w, or was donated before", i, errClosed)
		}
	}
	for _, i := range donated {
		if i < 0 || i >= len(arguments) {
			return fmt.Errorf("donated argument %d of %d", i, len(arguments))
		}
		b := arguments[i]
		if b.uses > 0 || slices.Index(arguments, b) != i || slices.Contains(arguments[i+1:], b) {
			return fmt.Errorf("donated argument %d is in use elsewhere", i)
		}
	}
	for _, b := range arguments {
		b.uses++
	}
	return nil
}

// release ends what acquire began.
func (c *Client) release(arguments []*Buffer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range arguments {
		b.uses--
	}
}

// consume ends what acquire began, and closes what was donated.
func (c *Client) consume(arguments []*Buffer, donated []int) error {
	c.mu.Lock()
	for _, b := range arguments {
		b.uses--
	}
	var gone []*Buffer
	for _, i := range donated {
		if b := arguments[i]; !b.shut {
			b.shut = true
			gone = append(gone, b)
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, b := range gone {
		errs = append(errs, b.destroy())
	}
	return errors.Join(errs...)
}

// sizeOf is the bytes of a dense tensor.
func sizeOf(t Type, dims []int) (int, error) {
	n := t.Size()
	if n == 0 {
		return 0, fmt.Errorf("element type %d is not known here", int32(t))
	}
	if len(dims) > maxDims {
		return 0, fmt.Errorf("%d dimensions, want at most %d", len(dims), maxDims)
	}
	for i, d := range dims {
		if d < 0 || d > 0 && n > math.MaxInt/d {
			return 0, fmt.Errorf("dimension %d is %d", i, d)
		}
		n *= d
	}
	return n, nil
}

func int64s(xs []int) []int64 {
	out := make([]int64, len(xs))
	for i, x := range xs {
		out[i] = int64(x)
	}
	return out
}

// empty is the address of tensors without elements.
var empty [1]byte

func pinnedBytes(b []byte, pins *runtime.Pinner) unsafe.Pointer {
	if len(b) == 0 {
		return unsafe.Pointer(&empty[0])
	}
	pins.Pin(&b[0])
	return unsafe.Pointer(&b[0])
}
