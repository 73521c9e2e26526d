package xla

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"unsafe"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// Precision is the number format of products and of what lies between them. Weights, moments, sums, statistics and the
// residual stream are float32 in all of them.
type Precision string

// The number formats.
const (
	InFP32 Precision = "fp32"
	// InTF32 is float32 whose products round their operands to 10 bits of mantissa, which tensor cores are many times faster
	// at. Results then agree with those of other machines to about three digits.
	InTF32 Precision = "tf32"
	InBF16 Precision = "bf16"
)

// ParsePrecision reads a precision; "auto" is InBF16.
func ParsePrecision(word string) (Precision, error) {
	switch p := Precision(word); p {
	case InFP32, InTF32, InBF16:
		return p, nil
	case "auto":
		return InBF16, nil
	}
	return "", fmt.Errorf("precision is %q, want auto, fp32, tf32 or bf16", word)
}

// Options of a machine.
type Options struct {
	Precision Precision // "": InFP32
	Tuning
	Memory int64 // that the machine may take on the device, bytes; 0: what the device has free
	// Pixels are inputs [B,C,…] that are given as bytes, and made numbers on the device.
	Pixels map[*G.Node]Pixels
}

// fuses tells whether modules may hold fused attention.
func (o Options) fuses() bool { return o.FusedAttention && o.Precision == InBF16 }

// fusesHeads tells whether cuDNN is asked for attention with so many features to a head.
func (o Options) fusesHeads(block, features int) bool {
	return o.fuses() && block == 0 && features <= 128 && features%8 == 0
}

// Pixels says how the bytes x of a channel become numbers: x·Scale + Shift.
type Pixels struct{ Scale, Shift []float32 }

// Tuning is what changes the speed of a machine and, but for rounding, nothing else.
type Tuning struct {
	// FusedAttention has cuDNN compute attention in bfloat16 where it can, without the scores ever being in memory.
	FusedAttention bool
	// Steps that Step gathers before it starts them together; 0: who makes the machine chooses. More pay where a step is so
	// short that starting it takes longer.
	Steps int
}

// Tune returns the device for machines that are tuned so, where their options are not.
func Tune(d Device, t Tuning) Device { return tuned{d, t} }

type tuned struct {
	Device
	tuning Tuning
}

// inFlight is how many starts may be under way before the host waits: enough for the device never to be idle, few enough
// for the inputs to take little memory.
const inFlight = 3

// Machine runs one program on a device. It implements graph.Machine; a training loop is faster with Step and Wait. It is
// used from one goroutine at a time.
//
// The state is on the device. Floats of a state brings it to the host, and sends it back before the next run: who only
// reads it calls Fetch first, and learns of errors.
type Machine struct {
	ctx context.Context // for the machine's life: graph.Machine's methods take none
	a   *program
	d   Device
	o   Options

	slots []*slot // host memory of inputs, one for each step that is started together
	at    int     // the slot that is being filled
	last  *slot   // that of the newest Run or Step
	ran   bool    // Run has computed results that Update has not applied

	state     map[*flat]*mirrored
	constants []Buffer
	alive     Buffer
	kept      keptTables

	shape       *shape
	executables map[string]*compiled // for the shape
	needs       Needs                // of the newest module

	starting chan error // of the launch that is being started beside what the caller does; nil: there is none
	pending  []launch
	history  [][]float32 // figures of steps since the last Wait
	large    []Buffer    // results on the device, of the newest step
	results  map[*G.Node][]float32
	filled   []int32 // tables, before they are sent

	err error // that could not be returned when it happened
}

// slot is the inputs of one step on the host.
type slot struct {
	floats map[*G.Node][]float32
	ints   map[*G.Node][]int32
	bytes  map[*G.Node][]byte
}

func (s *slot) Floats(n *G.Node) []float32 { return s.floats[n] }
func (s *slot) Ints(n *G.Node) []int32     { return s.ints[n] }

func (s *slot) copy(from *slot) {
	for n, x := range from.floats {
		copy(s.floats[n], x)
	}
	for n, x := range from.ints {
		copy(s.ints[n], x)
	}
	for n, x := range from.bytes {
		copy(s.bytes[n], x)
	}
}

func (s *slot) clone() *slot {
	c := &slot{map[*G.Node][]float32{}, map[*G.Node][]int32{}, map[*G.Node][]byte{}}
	for n, x := range s.floats {
		c.floats[n] = slices.Clone(x)
	}
	for n, x := range s.ints {
		c.ints[n] = slices.Clone(x)
	}
	for n, x := range s.bytes {
		c.bytes[n] = slices.Clone(x)
	}
	return c
}

// mirrored is a flat buffer of state: on the device, on the host, or the same on both.
type mirrored struct {
	device Buffer    // nil: not yet there
	host   []float32 // nil: only on the device
	newer  bool      // the host's may have been written to
}

// compiled is a module on the device.
type compiled struct {
	*module
	Executable
}

// launch is steps that were started and whose figures nobody has seen.
type launch struct {
	figures Buffer
	inputs  []Buffer
	steps   int // that figures has room for
	count   int // of them that had an effect
}

// New looks a program through for a device, which stays the caller's to close. Modules are compiled when their shapes are
// known, at the first run. A program that will not fit by the estimate, for tokens at full capacity, is not refused
// before that. ctx ends the machine's waiting.
func New(ctx context.Context, p *graph.Program, d Device, o Options) (*Machine, error) {
	if o.Precision == "" {
		o.Precision = InFP32
	}
	if o.Precision != InFP32 && o.Precision != InTF32 && o.Precision != InBF16 {
		return nil, fmt.Errorf("precision is %q, want fp32, tf32 or bf16", o.Precision)
	}
	if t, ok := d.(tuned); ok {
		o.FusedAttention = o.FusedAttention || t.tuning.FusedAttention
		o.Steps = cmp.Or(t.tuning.Steps, o.Steps)
	}
	if o.Steps < 0 || o.Steps > 1024 {
		return nil, fmt.Errorf("steps started together: %d, want 1 to 1024", o.Steps)
	}
	o.Steps = max(1, o.Steps)
	if len(p.Updates) == 0 {
		o.Steps = 1
	}
	a, err := analyse(p)
	if err != nil {
		return nil, fmt.Errorf("plan for %s: %w", d.Name(), err)
	}
	for n, px := range o.Pixels {
		if !slices.Contains(p.Inputs, n) || n.Dims() < 2 || len(px.Scale) != n.Shape()[1] || len(px.Shift) != n.Shape()[1] {
			return nil, fmt.Errorf("plan for %s: %s cannot be given as bytes of %d channels", d.Name(), n.Name(), len(px.Scale))
		}
	}
	m := &Machine{ctx: ctx, a: a, d: d, o: o, state: map[*flat]*mirrored{}, executables: map[string]*compiled{}, results: map[*G.Node][]float32{}}
	for range o.Steps {
		m.slots = append(m.slots, &slot{map[*G.Node][]float32{}, map[*G.Node][]int32{}, map[*G.Node][]byte{}})
	}
	for _, n := range p.Inputs { // those of all slots end to end: one upload
		size := n.Shape().TotalSize()
		switch _, bytes := o.Pixels[n]; {
		case n.Dtype() == tensor.Int32:
			for _, s := range m.slots {
				s.ints[n] = make([]int32, size)
			}
		case bytes:
			all := make([]byte, size*o.Steps)
			for i, s := range m.slots {
				s.bytes[n] = all[i*size : (i+1)*size : (i+1)*size]
			}
		default:
			all := make([]float32, size*o.Steps)
			for i, s := range m.slots {
				s.floats[n] = all[i*size : (i+1)*size : (i+1)*size]
			}
		}
	}
	for _, n := range p.Results {
		m.results[n] = make([]float32, n.Shape().TotalSize())
	}
	for _, b := range a.state {
		m.state[b] = &mirrored{host: make([]float32, b.size), newer: true}
	}
	return m, nil
}

// Floats returns host memory of an input of the step at hand, of a state or of a result; nil for others and for an input
// that is given as bytes. A state's is valid until the next run.
func (m *Machine) Floats(n *G.Node) []float32 {
	if x, ok := m.slots[m.at].floats[n]; ok {
		return x
	}
	if x, ok := m.results[n]; ok {
		return x
	}
	b := m.a.bufferOf(n)
	if b == nil {
		return nil
	}
	if err := m.fetch(b); err != nil { // noted for the next run, which will not take place
		m.err = cmp.Or(m.err, err)
		return make([]float32, n.Shape().TotalSize())
	}
	s := m.state[b]
	s.newer = true
	return s.host[b.at[n]:][:n.Shape().TotalSize()]
}

// Ints returns host memory of an int32 input of the step at hand.
func (m *Machine) Ints(n *G.Node) []int32 { return m.slots[m.at].ints[n] }

// Bytes returns host memory of an input that is given as bytes; nil for others.
func (m *Machine) Bytes(n *G.Node) []byte { return m.slots[m.at].bytes[n] }

// bufferOf is the flat buffer that a state lies in.
func (a *program) bufferOf(n *G.Node) *flat {
	for _, b := range a.state {
		if _, ok := b.at[n]; ok {
			return b
		}
	}
	return nil
}

// fetch brings a buffer of state to the host, after all steps that were started.
func (m *Machine) fetch(b *flat) error {
	if err := m.settle(); err != nil {
		return err
	}
	s := m.state[b]
	if s.host != nil {
		return nil
	}
	host := make([]float32, b.size)
	if err := s.device.Download(m.ctx, bytesOf(host)); err != nil {
		return fmt.Errorf("read the state: %w", err)
	}
	s.host = host // only when it is whole: what is here is uploaded again
	return nil
}

// Fetch brings state and large results to the host, so that Floats has them: all state, or what the nodes name. It
// waits for all steps that were started.
func (m *Machine) Fetch(nodes ...*G.Node) error {
	if err := m.Wait(); err != nil {
		return err
	}
	if len(nodes) == 0 {
		nodes = m.a.State
	}
	for _, n := range nodes {
		if b := m.a.bufferOf(n); b != nil {
			if err := m.fetch(b); err != nil {
				return err
			}
			continue
		}
		i := slices.Index(m.a.large, n)
		if i < 0 || m.large == nil {
			continue
		}
		got := m.large[i].Type()
		dst := m.results[n]
		clear(dst[got.Elements():])
		if err := m.large[i].Download(m.ctx, bytesOf(dst[:got.Elements()])); err != nil {
			return fmt.Errorf("read result %v: %w", n.Op(), err)
		}
	}
	return nil
}

// Run computes the results for the inputs of the step at hand, and brings them to the host.
func (m *Machine) Run() error {
	m.ran = false
	if m.at > 0 { // steps that were gathered come first, and the inputs at hand then lie where theirs were
		at := m.slots[m.at].clone()
		if err := m.Wait(); err != nil {
			return err
		}
		m.slots[0].copy(at)
	}
	m.last = m.slots[0]
	if err := m.Wait(); err != nil {
		return err
	}
	if err := m.start(false, 1); err != nil {
		return err
	}
	if err := m.drain(); err != nil {
		return err
	}
	m.history = nil
	if len(m.a.large) > 0 { // Fetch takes no names for all state
		if err := m.Fetch(m.a.large...); err != nil {
			return err
		}
	}
	m.ran = true
	return nil
}

// Update applies the updates of the last Run, once. It computes the step again, on the device: a training loop that
// minds calls Step.
func (m *Machine) Update() error {
	if !m.ran {
		return errors.New("update: there is no successful run that was not applied")
	}
	m.ran = false
	if len(m.a.Updates) == 0 {
		return nil
	}
	m.at = 1 // Run had its inputs in the first slot
	return m.Wait()
}

// Step computes results and updates for the inputs of the step at hand, and begins the next step, whose inputs must all
// be set. It does not wait: Wait does. A step whose figures (the results of one number) are not all finite changes no
// state, nor does any step after it.
func (m *Machine) Step() error {
	if m.err != nil {
		return m.err
	}
	if len(m.a.Updates) == 0 {
		return errors.New("step: the program has no updates")
	}
	m.ran, m.last = false, m.slots[m.at]
	if m.at++; m.at < len(m.slots) {
		return nil
	}
	m.at = 0
	return m.start(true, len(m.slots))
}

// SetClips says that of the next batches only the first n clips count: the last windows of a video rarely fill one. All
// are computed. A program with figures, which are of all clips, has no use for it.
func (m *Machine) SetClips(n int) error {
	if n < 1 || n > m.a.Clips || len(m.a.figures) > 0 && n != m.a.Clips {
		return fmt.Errorf("a run of %d clips: the program was built for %d, with %d figures of them all", n, m.a.Clips, len(m.a.figures))
	}
	return nil
}

// StoppedError says that a step gave figures that are not finite. Floats then has the figures of that step.
type StoppedError struct {
	Step  int // counted from 0, among those since the last Wait
	Steps int // since the last Wait
}

func (e *StoppedError) Error() string {
	return fmt.Sprintf("step %d of the %d since the last report gave a figure that is not finite", e.Step+1, e.Steps)
}

// Wait starts what Step has gathered, waits for all steps, and brings the figures of the newest to the host. A step
// that was not taken is a *StoppedError; the state is then that before it.
func (m *Machine) Wait() error {
	if m.err != nil {
		return m.err
	}
	if n := m.at; n > 0 { // fewer than are started together
		m.at = 0
		if err := m.start(true, n); err != nil {
			return err
		}
	}
	if err := m.drain(); err != nil {
		return err
	}
	history := m.history
	m.history = nil
	for i, figures := range history {
		for k, n := range m.a.figures {
			m.results[n][0] = figures[k]
		}
		for _, x := range figures {
			if x-x != 0 {
				return &StoppedError{i, len(history)}
			}
		}
	}
	return nil
}

// drain waits for the figures of everything that was started.
func (m *Machine) drain() error {
	if err := m.settle(); err != nil {
		return err
	}
	for len(m.pending) > 0 {
		if err := m.oldest(); err != nil {
			return err
		}
	}
	return nil
}

// oldest waits for the oldest launch and notes its figures.
func (m *Machine) oldest() error {
	p := m.pending[0]
	m.pending = m.pending[1:]
	all := make([]float32, p.steps*len(m.a.figures))
	var err error
	if p.figures != nil {
		err = p.figures.Download(m.ctx, bytesOf(all))
		err = errors.Join(err, p.figures.Close())
	}
	for _, b := range p.inputs {
		err = errors.Join(err, b.Close())
	}
	if err != nil {
		m.err = m.explain("run", err)
		return m.err
	}
	for i := range p.count {
		m.history = append(m.history, all[i*len(m.a.figures):(i+1)*len(m.a.figures)])
	}
	if len(m.a.figures) > 0 {
		for k, n := range m.a.figures {
			m.results[n][0] = m.history[len(m.history)-1][k]
		}
	}
	return nil
}

// start uploads the inputs of the first count slots and starts the module for them.
func (m *Machine) start(update bool, count int) error {
	if m.err != nil {
		return m.err
	}
	slots := m.slots[:count]
	again := !update && m.kept.serve(slots[0])
	if !again {
		if err := m.fit(slots); err != nil {
			return err
		}
	}
	if update { // one module for any count of steps: to compile another takes longer than some steps without effect
		slots = m.slots
		m.repeat(count)
	}
	e, err := m.executable(update, len(slots))
	if err != nil {
		return err
	}
	inputs, tables, err := m.upload(e, slots, count, again)
	switch {
	case update || err != nil && !again: // closed with the inputs
		inputs, tables = append(inputs, tables...), nil
	case err == nil && !again:
		err = m.keepTables(e, slots[0], tables)
	}
	if err != nil {
		return errors.Join(m.settle(), m.explain("send the inputs", err), closeAll(inputs))
	}
	if err := m.settle(); err != nil {
		return errors.Join(err, closeAll(inputs))
	}
	for len(m.pending) >= inFlight {
		if err := m.oldest(); err != nil {
			return errors.Join(err, closeAll(inputs))
		}
	}
	// To start a program of hundreds of operations takes a device's host as long as to make the inputs ready for it.
	m.starting = make(chan error, 1)
	go func() { m.starting <- m.launch(e, inputs, tables, count) }()
	return nil
}

// settle waits until the newest launch has been started, which is when state and pending are the caller's again.
func (m *Machine) settle() error {
	if m.starting != nil {
		err := <-m.starting
		m.starting = nil
		if err != nil {
			m.err = err // donated state may be lost
		}
	}
	return m.err
}

// launch starts a module on inputs, which it takes over, and on those that are kept.
func (m *Machine) launch(e *compiled, inputs, kept []Buffer, count int) error {
	args, err := m.arguments(e, slices.Concat(inputs, kept))
	if err != nil {
		return errors.Join(m.explain("send the state", err), closeAll(inputs))
	}
	out, err := e.Run(m.ctx, args)
	if err != nil {
		return errors.Join(m.explain("run", err), closeAll(inputs))
	}
	return m.keep(e, out, inputs, count)
}

// repeat puts the inputs of the newest of count steps into the slots after it, whose steps have no effect: they have to be
// some that can be computed.
func (m *Machine) repeat(count int) {
	from := m.slots[count-1]
	for _, to := range m.slots[count:] {
		to.copy(from)
	}
}

func closeAll(buffers []Buffer) error {
	var err error
	for _, b := range buffers {
		if b != nil {
			err = errors.Join(err, b.Close())
		}
	}
	return err
}

// keep takes over what a module has returned.
func (m *Machine) keep(e *compiled, out, inputs []Buffer, count int) error {
	var err error
	if e.update {
		for i, b := range m.a.updatedState() {
			s := m.state[b]
			err = errors.Join(err, s.device.Close())
			s.device, s.host, s.newer = out[i], nil, false
		}
		out = out[len(m.a.updatedState()):]
		err = errors.Join(err, m.alive.Close())
		m.alive, out = out[0], out[1:]
	}
	p := launch{inputs: inputs, steps: e.steps, count: count}
	if len(m.a.figures) > 0 {
		p.figures, out = out[0], out[1:]
	}
	m.pending = append(m.pending, p)
	for _, b := range m.large {
		err = errors.Join(err, b.Close())
	}
	m.large = out
	return err
}

// arguments are a module's: state, constants and the inputs of this launch.
func (m *Machine) arguments(e *compiled, inputs []Buffer) ([]Buffer, error) {
	var args, fixed []Buffer
	for _, b := range e.state {
		device, err := m.onDevice(b)
		if err != nil {
			return nil, err
		}
		if e.update && !b.updated {
			fixed = append(fixed, device)
			continue
		}
		args = append(args, device)
	}
	if e.update {
		if m.alive == nil {
			var err error
			if m.alive, err = m.d.Upload(m.ctx, hlo.Of(hlo.Bool), []byte{1}); err != nil {
				return nil, err
			}
		}
		args = append(append(args, m.alive), fixed...)
	}
	if err := m.uploadConstants(); err != nil {
		return nil, err
	}
	return slices.Concat(args, m.constants, inputs), nil
}

// keptTables are those of the newest Run: scoring lays out its windows alike from batch to batch, and to check, fill and send
// tables of a million entries takes longer than the windows themselves.
type keptTables struct {
	ints   map[*G.Node][]int32 // that they were made of; nil: there are none
	tables []Buffer
}

// serve tells whether the tables are those of a slot.
func (k *keptTables) serve(s *slot) bool {
	if k.ints == nil {
		return false
	}
	for n, x := range s.ints {
		if !slices.Equal(x, k.ints[n]) {
			return false
		}
	}
	return true
}

// keepTables takes over tables that were made of a slot's inputs. Those that were made of other numbers as well are kept for
// one Run.
func (m *Machine) keepTables(e *compiled, s *slot, tables []Buffer) error {
	err := m.dropTables()
	m.kept.tables = tables
	if len(e.tables) == 0 {
		m.kept.ints = map[*G.Node][]int32{}
		for n, x := range s.ints {
			m.kept.ints[n] = slices.Clone(x)
		}
	}
	return err
}

func (m *Machine) dropTables() error {
	err := closeAll(m.kept.tables)
	m.kept = keptTables{}
	return err
}

// upload sends the inputs and tables of a launch, the tables while the inputs are on their way; again is set where the tables
// that are kept will do. Buffers that it returns are to be closed, but for those, after an error too; some may be nil then.
func (m *Machine) upload(e *compiled, slots []*slot, count int, again bool) (inputs, tables []Buffer, err error) {
	inputs = make([]Buffer, len(e.inputs))
	sent := make(chan error, 1)
	go func() {
		for i, n := range e.inputs {
			t := stacked(m.o.inputType(n), e.steps)
			data := slots[0].bytes[n]
			if x := slots[0].floats[n]; x != nil {
				data = bytesOf(x)
			}
			var err error
			if inputs[i], err = m.d.Upload(m.ctx, t, unsafe.Slice(unsafe.SliceData(data), t.Bytes())); err != nil { // the slots lie end to end
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	if tables = m.kept.tables; !again {
		tables, err = m.uploadTables(e, slots, count)
	}
	return inputs, tables, errors.Join(err, <-sent)
}

func (m *Machine) uploadTables(e *compiled, slots []*slot, count int) (sent []Buffer, err error) {
	put := func(t Type, data []byte) error {
		b, err := m.d.Upload(m.ctx, t, data)
		if err == nil {
			sent = append(sent, b)
		}
		return err
	}
	for _, t := range e.tables {
		if err := put(stacked(m.a.tableType(m.shape, t), e.steps), m.weights(t, slots)); err != nil {
			return sent, err
		}
	}
	if len(e.ints) > 0 {
		if err := put(stacked(m.a.intsType(m.shape, e.ints), e.steps), m.ints(e.ints, slots)); err != nil {
			return sent, err
		}
	}
	if e.steps > 1 {
		return sent, put(countType, bytesOf([]int32{int32(count)}))
	}
	return sent, nil
}

// weights is a table of float32 for some slots, end to end.
func (m *Machine) weights(t table, slots []*slot) []byte {
	size := m.shape.size(m.a, t)
	all := make([]float32, size*len(slots))
	for i, s := range slots {
		fillWeights(t, s, all[i*size:(i+1)*size])
	}
	return bytesOf(all)
}

// ints is all tables of int32 for some slots, end to end, in memory that is used again.
func (m *Machine) ints(tables []table, slots []*slot) []byte {
	size := m.a.intsType(m.shape, tables).Elements() * len(slots)
	m.filled = slices.Grow(m.filled[:0], size)[:size]
	var all sync.WaitGroup
	at := 0
	for _, s := range slots {
		for _, t := range tables {
			dst := m.filled[at:][:m.shape.size(m.a, t)]
			at += len(dst)
			all.Go(func() { m.shape.fill(m.a, t, s, dst) })
		}
	}
	all.Wait()
	return bytesOf(m.filled)
}

// onDevice is a buffer of state, sent there if the host has changed it.
func (m *Machine) onDevice(b *flat) (Buffer, error) {
	s := m.state[b]
	if !s.newer {
		return s.device, nil
	}
	device, err := m.d.Upload(m.ctx, b.kind(), bytesOf(s.host))
	if err != nil {
		return nil, err
	}
	if s.device != nil {
		if err := s.device.Close(); err != nil {
			return nil, errors.Join(err, device.Close())
		}
	}
	s.device, s.host, s.newer = device, nil, false
	return device, nil
}

// uploadConstants sends the tables of rotary positions, once.
func (m *Machine) uploadConstants() error {
	if m.constants != nil {
		return nil
	}
	for _, r := range m.a.rotations {
		op := graph.RotateOp{Rotation: r.Rotation, Transposed: r.transposed}
		c, s := op.Tables(r.headDim)
		for i, x := range [2][]float64{c, s} {
			single := make([]float32, len(x))
			for j, v := range x {
				single[j] = float32(v)
			}
			b, err := m.d.Upload(m.ctx, r.types()[i], bytesOf(single))
			if err != nil {
				return err
			}
			m.constants = append(m.constants, b)
		}
	}
	return nil
}

// fit checks the inputs of slots and makes the shape one that holds them.
func (m *Machine) fit(slots []*slot) error {
	for _, s := range slots {
		if err := m.a.check(s); err != nil {
			return err
		}
		need := m.a.shapeFor(s)
		switch {
		case m.shape == nil:
			m.shape = need
		case !m.shape.holds(need):
			// Modules of the old shape serve no more. None of them may still be running.
			if err := m.drain(); err != nil {
				return err
			}
			if err := m.closeExecutables(); err != nil {
				return err
			}
			m.shape = m.shape.union(m.a, need, 1)
		}
	}
	return nil
}

// Expect makes room for the inputs of the step at hand, as those of a step to come: a module compiled afterwards holds
// them. Whoever knows the masks of many steps beforehand spares the later ones a compilation in their midst.
func (m *Machine) Expect() error {
	s := m.slots[m.at]
	if err := m.a.check(s); err != nil {
		return err
	}
	need := m.a.shapeFor(s)
	if m.shape == nil {
		m.shape = need
	}
	if m.shape.holds(need) {
		return nil
	}
	if err := m.drain(); err != nil {
		return err
	}
	m.shape = m.shape.union(m.a, need, 0)
	return m.closeExecutables()
}

// executable is the module for the shape, compiled if it has not been.
func (m *Machine) executable(update bool, steps int) (*compiled, error) {
	key := fmt.Sprintf("%v %d", update, steps)
	if e := m.executables[key]; e != nil {
		return e, nil
	}
	if err := m.settle(); err != nil {
		return nil, err
	}
	available := m.available()
	mod, e, err := m.compile(update, steps)
	if tooLarge := (*OutOfMemoryError)(nil); err != nil && m.o.fuses() && !errors.As(err, &tooLarge) && m.ctx.Err() == nil {
		fused := err
		m.o.FusedAttention = false
		if mod, e, err = m.compile(update, steps); err != nil {
			return nil, errors.Join(fmt.Errorf("with cuDNN's attention: %w", fused), err)
		}
		slog.Warn("attention is not computed by cuDNN", "device", m.d.Name(), "error", fused)
	}
	if err != nil {
		return nil, err
	}
	if exact, ok := e.Memory(); ok {
		m.needs = Needs{State: m.needs.State, Inputs: exact.Args - m.needs.State, Results: exact.Results - exact.Aliased, Temporary: exact.Temporary, Code: exact.Code}
		m.needs.Inputs = max(0, m.needs.Inputs) * inFlight
	}
	if available > 0 && m.needs.Total() > available {
		return nil, errors.Join(m.tooLarge(available, nil), e.Close())
	}
	m.executables[key] = &compiled{mod, e}
	return m.executables[key], nil
}

func (m *Machine) compile(update bool, steps int) (*module, Executable, error) {
	m.needs = m.a.estimate(m.shape, m.o, update, steps)
	mod, err := m.a.build(m.shape, m.o, update, steps)
	if err != nil {
		return nil, nil, err
	}
	mod.Reserved = m.needs.Temporary
	e, err := m.d.Compile(m.ctx, mod.Module)
	if err != nil {
		return nil, nil, m.explain("compile "+mod.Name, err)
	}
	return mod, e, nil
}

// available is the device memory that the machine may take in all, with what it holds already; 0: not known.
func (m *Machine) available() int64 {
	if m.o.Memory > 0 {
		return m.o.Memory
	}
	free, _, ok := m.d.Memory()
	if !ok {
		return 0
	}
	for b, s := range m.state {
		if s.device != nil {
			free += int64(b.kind().Bytes())
		}
	}
	return free
}

func (m *Machine) tooLarge(available int64, err error) *TooLargeError {
	return &TooLargeError{Needs: m.needs, Available: available, Clips: m.a.Clips, Fits: m.needs.fits(available, m.a.Clips), Device: m.d.Name(), Err: err}
}

// explain says what was being done, and of memory that ran out, what would fit.
func (m *Machine) explain(what string, err error) error {
	var out *OutOfMemoryError
	if errors.As(err, &out) {
		available := m.available()
		if available == 0 {
			available = out.Total
		}
		return fmt.Errorf("%s: %w", what, m.tooLarge(available, err))
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Memory is what the newest module takes on the device.
func (m *Machine) Memory() Needs { return m.needs }

// Check says, by the estimate for the inputs of the step at hand, whether the program will fit; nil where the device does
// not say what it has.
func (m *Machine) Check() error {
	if err := errors.Join(m.settle(), m.fit(m.slots[m.at:m.at+1])); err != nil {
		return err
	}
	m.needs = m.a.estimate(m.shape, m.o, len(m.a.Updates) > 0, m.o.Steps)
	if available := m.available(); available > 0 && m.needs.Total() > available {
		return m.tooLarge(available, nil)
	}
	return nil
}

func (m *Machine) closeExecutables() error {
	err := m.dropTables() // which are of the shape that the modules were
	for _, e := range m.executables {
		err = errors.Join(err, e.Close())
	}
	m.executables = map[string]*compiled{}
	return err
}

// Close waits for what was started and gives the device's memory back.
func (m *Machine) Close() error {
	var err error
	if m.starting != nil {
		err = <-m.starting
		m.starting = nil
	}
	for _, p := range m.pending {
		if p.figures != nil {
			_ = p.figures.Wait(m.ctx) // what it has to say no longer matters
			err = errors.Join(err, p.figures.Close())
		}
		for _, b := range p.inputs {
			err = errors.Join(err, b.Close())
		}
	}
	for _, s := range m.state {
		if s.device != nil {
			err = errors.Join(err, s.device.Close())
		}
	}
	for _, b := range slices.Concat(m.constants, m.large) {
		err = errors.Join(err, b.Close())
	}
	if m.alive != nil {
		err = errors.Join(err, m.alive.Close())
	}
	err = errors.Join(err, m.closeExecutables())
	m.pending, m.state, m.constants, m.large, m.alive = nil, map[*flat]*mirrored{}, nil, nil, nil
	m.err = errors.New("the machine is closed")
	return err
}

// bytesOf is the memory of numbers.
func bytesOf[T float32 | int32](x []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}
