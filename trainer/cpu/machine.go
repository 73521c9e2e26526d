// Package cpu runs a graph.Program on the CPU, clip by clip.
//
// A token matrix never exists for the whole batch: every thread takes one clip
// through forward and backward pass with buffers the size of that clip, which stay in
// its cache, and adds weight gradients to sums of its own. When all clips are done the
// threads' sums are added, in the order of the threads, and the optimiser runs.
//
//	plan.go     which operations run per clip, which sum over clips, which run once
//	fuse.go     which operations run as one, in which order, and which matrices are bfloat16
//	layout.go   where each buffer of a clip lies
//	pack.go     weights laid out for products, once a step
//	machine.go  the run: bind offsets, all clips, sums, results; then the update
//	clip.go     one clip through the operations, each a call into package kernel
//	peers.go    sums over the clips of other machines
//	profile.go  where the time goes
//	finite.go   where a value that is no number came from
//	arena.go    memory outside the Go heap
//
// Clips are dealt to threads by their number of tokens, so the result depends on the data and the number of
// threads alone, bit for bit, and never on scheduling.
package cpu

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
	"github.com/surmise-ml/surmise/trainer/graph"
)

// Options of a machine.
type Options struct {
	// Threads that run clips, each locked to an OS thread; 0 takes as many as Go may
	// use (GOMAXPROCS, which follows a container's CPU limit). Never more than clips.
	Threads int
	// Memory that the machine may take, bytes; 0: as much as the system has left.
	Memory int64
	// Precision of the products; "": FP32. See Precision.Resolve. BF16 on a processor without instructions for it is
	// computed in float32 with operands rounded to bfloat16: right, and slower than FP32.
	Precision Precision
	Profile   bool // time every operation, for Operations
	// Weights are states whose memory the caller keeps, for example in a mapped file: they are read in place, never
	// written, and not counted in Memory. A program that updates them is refused.
	Weights map[*G.Node][]float32
	// Release, if set, is called after each matrix of Weights has been laid out for products, from any thread: the memory
	// that it was read from is hardly needed again.
	Release func()
	// Peers, if set, run the same program on other clips of the batch: sums over clips are then those over the clips of
	// all, and so are losses, gradients and what becomes of the state. Results that are rows of clips stay this machine's.
	Peers Peers
}

// MemoryError refuses a program before anything is allocated for it.
type MemoryError struct {
	Shared    int64 // bytes of weights, moments, gradients, inputs and results
	PerThread int64 // bytes of a clip's buffers and a thread's sums of gradients
	Threads   int
	Available int64 // bytes
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("it takes %s, %s are available", e.Needs(), gib(e.Available))
}

// Needs says how much memory it is and for what.
func (e *MemoryError) Needs() string {
	return fmt.Sprintf("%s of memory (%s, and %s for each of %d threads)", gib(e.Bytes()), gib(e.Shared), gib(e.PerThread), e.Threads)
}

// Bytes is all of it.
func (e *MemoryError) Bytes() int64 { return e.Shared + int64(e.Threads)*e.PerThread }

func gib(bytes int64) string { return fmt.Sprintf("%.3g GiB", float64(bytes)/(1<<30)) }

// Machine runs one program. It is used from one goroutine at a time.
type Machine struct {
	plan      *plan
	memory    *arena
	ints      map[*G.Node][]int32   // inputs
	floats    map[*G.Node][]float32 // inputs, state, results, and all that is computed once a run
	panels    []float32             // weights laid out for products
	needs     MemoryError           // memory that was asked for
	waits     bool                  // among those that have not run yet
	packed    bool                  // panels are those of the weights
	clip      []call                // what a clip goes through
	rotations []*rotation           // factors of rotary positions
	adam      []adamStep
	release   func() // see Options
	profile   *profile
	exchange  *exchange // nil: there are no peers
	workers   []*worker
	wg        sync.WaitGroup
	sums      []float64 // of scalars, over clips
	costs     []clipCost
	clipsOf   []int // clip -> index of the worker that takes it
	active    int   // clips of the batch that are run
	ran       bool  // there are results that Update has not applied
}

// Compile plans a program and starts its threads; Close ends them. One that does not
// fit in memory is a *MemoryError.
func Compile(p *graph.Program, o Options) (*Machine, error) {
	if o.Threads < 0 {
		return nil, fmt.Errorf("threads is %d, want 0 (all) or more", o.Threads)
	}
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	o.Threads = min(o.Threads, p.Clips)
	if o.Precision == "" {
		o.Precision = FP32
	}
	if o.Precision != FP32 && o.Precision != BF16 {
		return nil, fmt.Errorf("precision is %q, want fp32 or bf16", o.Precision)
	}
	if err := kernel.Setup(); err != nil {
		return nil, err
	}
	pl, err := newPlan(p, o.Precision)
	if err != nil {
		return nil, fmt.Errorf("plan for the CPU: %w", err)
	}
	m := &Machine{plan: pl, active: p.Clips, release: o.Release, ints: map[*G.Node][]int32{}, floats: map[*G.Node][]float32{}}
	if err := m.allocate(o); err != nil {
		return nil, err
	}
	if o.Peers != nil {
		m.exchange = &exchange{peers: o.Peers, complete: make([]atomic.Int32, len(pl.buckets)), last: make([]int, len(m.workers)), done: make(chan error, 1)}
	}
	if o.Profile {
		m.profile = newProfile(m.plan, len(m.workers))
	}
	for _, w := range m.workers {
		go w.loop(&m.wg)
	}
	if m.clip, err = m.calls(); err == nil {
		m.adam, err = m.adamSteps()
	}
	if err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("plan for the CPU: %w", err)
	}
	return m, nil
}

// allocate lays out everything the machine will ever use, in one piece of memory.
func (m *Machine) allocate(o Options) error {
	var size, indices int
	var global G.Nodes
	for _, n := range m.plan.once {
		_, summed := m.plan.sumAt[n]
		switch {
		case n.Dtype() == tensor.Int32:
			indices += n.Shape().TotalSize()
		case o.Weights[n] != nil:
			if err := m.keptByCaller(n, o.Weights[n]); err != nil {
				return err
			}
		case !summed: // the sums of all clips are those of the first worker, when it has added the others' to its own
			global = append(global, n)
			size += roundUp(n.Shape().TotalSize(), cacheLine)
		}
	}
	threads, p := o.Threads, m.plan
	size += roundUp(p.packFloats, cacheLine)
	perThread := 0
	for _, floats := range []int{p.layout.floats, p.sumFloats, p.scratchFloats, p.narrowCells, roundUp(p.weightCells, 2) / 2} {
		perThread += roundUp(floats, cacheLine)
	}
	needs := MemoryError{Shared: 4 * int64(size+indices), PerThread: 4 * int64(perThread), Threads: threads, Available: o.Memory}
	known := needs.Available > 0
	if !known {
		needs.Available, known = AvailableMemory()
	}
	m.needs = needs
	if known && needs.Bytes() > needs.Available {
		return &needs
	}
	var err error
	if m.memory, err = newArena(size + threads*perThread); err != nil {
		return fmt.Errorf("memory for %d threads of %d floats and %d floats of weights, moments and gradients: %w", threads, perThread, size, err)
	}
	m.waits = true
	waiting.add(m)
	take := func(floats int) []float32 { return m.memory.take(floats, cacheLine) }
	for _, n := range global {
		m.floats[n] = take(n.Shape().TotalSize())
	}
	for _, n := range p.once {
		if n.Dtype() == tensor.Int32 {
			m.ints[n] = make([]int32, n.Shape().TotalSize())
		}
	}
	m.panels = take(p.packFloats)
	for t := range threads {
		w := &worker{m: m, index: t, threads: threads, work: make(chan func(*worker) error), ended: make(chan struct{})}
		w.sums, w.scratch = take(p.sumFloats), take(p.scratchFloats)
		narrow := halves(take(p.narrowCells), 2*p.narrowCells) // two operands of narrowCells
		w.narrow = [2][]uint16{narrow[:p.narrowCells], narrow[p.narrowCells:]}
		w.weights = halves(take(roundUp(p.weightCells, 2)/2), p.weightCells)
		w.clip = take(p.layout.floats)
		w.offsets, w.bounds = make([]int32, p.longestOffsets), make([]int32, p.longestOffsets)
		w.laidOut = make([]int, len(p.layout.buffers))
		w.free = make([]span, 0, len(p.layout.buffers)+1)
		w.squares = make([]float64, len(p.epilogue))
		m.workers = append(m.workers, w)
	}
	for _, n := range p.tensorSums {
		m.floats[n] = m.total(n).of(m.workers[0])
	}
	p.scalars = make([][]float64, len(p.scalarSums))
	for i := range p.scalars {
		p.scalars[i] = make([]float64, p.clips)
	}
	m.sums = make([]float64, len(p.scalarSums))
	m.costs, m.clipsOf = make([]clipCost, p.clips), make([]int, p.clips)
	return nil
}

// keptByCaller takes a state's memory from outside.
func (m *Machine) keptByCaller(n *G.Node, values []float32) error {
	p := m.plan.program
	if !slices.Contains(p.State, n) || len(values) != n.Shape().TotalSize() {
		return fmt.Errorf("weights of %s: %d values for %v, or it is no state", n.Name(), len(values), n.Shape())
	}
	for _, u := range p.Updates {
		if u.State == n {
			return fmt.Errorf("weights of %s are updated, and cannot be left to the caller", n.Name())
		}
	}
	m.floats[n] = values
	return nil
}

// Memory is what the machine has taken.
func (m *Machine) Memory() MemoryError { return m.needs }

// Prepare lays out the weights for products, as the first Run would. Those that Options.Weights named are read for it
// once; hardly any is read afterwards.
func (m *Machine) Prepare() error {
	if m.packed {
		return nil
	}
	if err := m.timed(packPhase, (*worker).packWeights); err != nil {
		return err
	}
	m.packed = true
	return nil
}

// Floats returns the memory of an input, a state, a result or a sum; nil for others. Who writes to a state asks for its
// memory before each time: the machine then reads it anew.
func (m *Machine) Floats(n *G.Node) []float32 {
	if m.plan.isWeights(n) {
		m.packed = false
	}
	return m.floats[n]
}

// Ints returns the memory of an int32 input.
func (m *Machine) Ints(n *G.Node) []int32 { return m.ints[n] }

// Bytes returns the memory the machine holds, bytes.
func (m *Machine) Bytes() int { return 4 * len(m.memory.floats) }

// SetClips has further runs stop after the first n clips of the batch: the last windows
// of a video rarely fill one. Only a program without sums over clips can do so.
func (m *Machine) SetClips(n int) error {
	if n < 1 || n > m.plan.clips || len(m.plan.scalarSums)+len(m.plan.tensorSums) > 0 && n != m.plan.clips {
		return fmt.Errorf("a run of %d clips: the program was built for %d, with %d sums over them", n, m.plan.clips, len(m.plan.scalarSums)+len(m.plan.tensorSums))
	}
	m.active = n
	return nil
}

// Run computes the results. On an error the state is untouched.
func (m *Machine) Run() error {
	m.ran = false
	if err := m.checkLayout(); err != nil {
		return err
	}
	for _, n := range m.plan.prologue {
		m.runOnce(n)
	}
	if err := m.Prepare(); err != nil {
		return err
	}
	m.dealClips()
	if err := m.runAllClips(); err != nil {
		return err
	}
	if err := m.timed(sumPhase, (*worker).addSums); err != nil {
		return err
	}
	for i := range m.plan.scalarSums {
		m.sums[i] = 0
		for _, x := range m.plan.scalars[i] { // in the order of clips: independent of threads
			m.sums[i] += x
		}
	}
	if err := m.exchangeScalars(); err != nil {
		return err
	}
	for i, n := range m.plan.scalarSums {
		m.floats[n][0] = float32(m.sums[i])
	}
	for _, n := range m.plan.epilogue {
		m.runOnce(n)
	}
	m.ran = true
	if m.waits {
		m.waits = false
		waiting.remove(m)
	}
	return nil
}

// runAllClips takes the clips through the program, and meanwhile adds up with peers what is complete.
func (m *Machine) runAllClips() error {
	if m.exchange == nil {
		return m.timed(clipPhase, (*worker).runClips)
	}
	m.beginExchange()
	err := m.timed(clipPhase, (*worker).runClips)
	return errors.Join(err, m.finishExchange())
}

// all has every worker do one thing and waits.
func (m *Machine) all(do func(*worker) error) error {
	m.wg.Add(len(m.workers))
	for _, w := range m.workers {
		w.work <- do
	}
	m.wg.Wait()
	for _, w := range m.workers {
		if w.err != nil {
			return w.err
		}
	}
	return nil
}

// checkLayout holds the offsets and indices of this run against the capacities, so
// that no kernel can be led outside its buffers.
func (m *Machine) checkLayout() error {
	for n, capacity := range m.plan.spaces {
		off := m.ints[n]
		if off[0] != 0 {
			return fmt.Errorf("%s: the first is %d, want 0", n.Name(), off[0])
		}
		for s := 1; s < len(off); s++ {
			if off[s] < off[s-1] {
				return fmt.Errorf("%s: number %d is %d, after %d", n.Name(), s, off[s], off[s-1])
			}
		}
		for b := range m.plan.clips {
			if rows := m.rowsOf(n, b); rows > capacity {
				return fmt.Errorf("%s: clip %d has %d rows, the graph was built for %d", n.Name(), b, rows, capacity)
			}
		}
	}
	for _, a := range m.plan.agreements {
		if err := a.check(m); err != nil {
			return err
		}
	}
	for _, c := range m.plan.indexChecks {
		if err := c.check(m); err != nil {
			return err
		}
	}
	return nil
}

// rowsOf returns the rows of clip b in the space of the given offsets.
func (m *Machine) rowsOf(offsets *G.Node, b int) int {
	off := m.ints[offsets]
	k := (len(off) - 1) / m.plan.clips
	return int(off[(b+1)*k] - off[b*k])
}

// runOnce runs an operation on whole buffers: scalars, and sums of gradients.
func (m *Machine) runOnce(n *G.Node) {
	out := m.floats[n]
	in := m.plan.children[n]
	switch op := n.Op().(type) {
	case *graph.OnesOp:
		for i := range out {
			out[i] = 1
		}
	case *graph.ScaleOp:
		kernel.Scale(out, m.floats[in[0]], float32(op.Factor))
	case *graph.AddOp:
		kernel.Add(out, m.floats[in[0]], m.floats[in[1]])
	case *graph.SumSquaresOp:
		var sum float64
		if at := m.plan.squaresAt(n); at >= 0 { // the workers have added them up
			for _, w := range m.workers {
				sum += w.squares[at]
			}
		} else {
			for _, c := range in {
				sum += kernel.SumSquares(m.floats[c])
			}
		}
		out[0] = float32(sum)
	case *graph.ClipFactorOp:
		out[0] = float32(graph.ClipScale(float64(m.floats[in[0]][0]), float64(m.floats[in[1]][graph.ClipNorm])))
	}
}

// adamStep is the fused update of one tensor: both moments, the weights, and their
// moving average in the target encoder.
type adamStep struct {
	weights, gradient, first, second, target []float32 // target may be nil
	factor, schedule                         []float32
	beta1, beta2, eps                        float64
	decays                                   bool
}

// adamSteps gives the program's updates their buffers.
func (m *Machine) adamSteps() ([]adamStep, error) {
	updates, err := graph.AdamSteps(m.plan.program.Updates)
	if err != nil {
		return nil, err
	}
	steps := make([]adamStep, len(updates))
	for i, u := range updates {
		s := adamStep{weights: m.floats[u.Weights], gradient: m.floats[u.Gradient], first: m.floats[u.First], second: m.floats[u.Second],
			factor: m.floats[u.Factor], schedule: m.floats[u.Schedule], beta1: u.Beta1, beta2: u.Beta2, eps: u.Eps, decays: u.Decays}
		if s.gradient == nil || s.factor == nil || s.schedule == nil {
			return nil, fmt.Errorf("update of %s reads what is not computed once a run", u.Weights.Name())
		}
		if u.Target != nil {
			if u.TargetSchedule != u.Schedule { // the pass reads one
				return nil, fmt.Errorf("update of %s: its moving average has a schedule of its own", u.Weights.Name())
			}
			s.target = m.floats[u.Target]
		}
		steps[i] = s
	}
	return steps, nil
}

// Update applies AdamW and the moving average of the last Run, in place, once.
func (m *Machine) Update() error {
	if !m.ran {
		return errors.New("update: there is no successful run that was not applied")
	}
	m.ran, m.packed = false, false
	return m.timed(updatePhase, (*worker).update)
}

// update takes this thread's share of every tensor. Elements do not depend on each
// other, so neither does the result on the number of threads.
func (w *worker) update() error {
	for _, s := range w.m.adam {
		first, last := share(len(s.weights), w.index, w.threads)
		var target []float32
		if s.target != nil {
			target = s.target[first:last]
		}
		h := kernel.AdamW{Scale: float64(s.factor[0]), Beta1: s.beta1, Beta2: s.beta2, Eps: s.eps,
			LR: float64(s.schedule[graph.LearningRate]), Correction1: float64(s.schedule[graph.BiasCorrect1]),
			Correction2: float64(s.schedule[graph.BiasCorrect2]), Momentum: float64(s.schedule[graph.EMAMomentum])}
		if s.decays {
			h.WeightDecay = float64(s.schedule[graph.WeightDecay])
		}
		kernel.AdamWEMA(s.weights[first:last], s.gradient[first:last], s.first[first:last], s.second[first:last], target, h)
	}
	return nil
}

// share is the part of n elements that thread t of threads takes.
func share(n, t, threads int) (first, last int) { return n * t / threads, n * (t + 1) / threads }

// Close ends the threads and frees the memory. The machine cannot be used after it.
func (m *Machine) Close() error {
	for _, w := range m.workers {
		close(w.work)
		<-w.ended
	}
	m.workers = nil
	m.floats, m.ints, m.panels = nil, nil, nil
	waiting.remove(m)
	return m.memory.free()
}

// worker is one thread.
type worker struct {
	m              *Machine
	index, threads int
	clip           []float32 // buffers of the clip it is at
	at             []int     // where each lies
	laidOut        []int     // the memory of at
	load           int       // cells of the clips it takes
	free           []span    // of the layout
	sums           []float32 // its sums over clips
	scratch        []float32 // for attention and sums of products
	narrow         [2][]uint16
	weights        []uint16  // a matrix of weights, rounded
	squares        []float64 // of its share of the gradients, for each SumSquares of the epilogue
	offsets        []int32   // a clip's offsets, counted from its first row
	bounds         []int32   // likewise of chosen queries
	work           chan func(*worker) error
	ended          chan struct{}
	err            error
}

// loop is the thread's life.
func (w *worker) loop(wg *sync.WaitGroup) {
	defer close(w.ended)
	lockForKernels()
	for do := range w.work {
		w.err = w.guard(do)
		wg.Done()
	}
}

// lockForKernels gives the goroutine an OS thread, whose floating-point mode and OpenMP
// settings are its own. It is never unlocked: the thread ends with the goroutine.
func lockForKernels() {
	runtime.LockOSThread()
	kernel.SetFlushToZero()
}

// guard turns a panic, which is a fault of this package, into an error of the run.
func (w *worker) guard(do func(*worker) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("CPU thread %d: %v", w.index, r)
		}
	}()
	return do(w)
}

// clipCost is what decides which thread takes a clip.
type clipCost struct {
	clip, cells int
}

// dealClips gives each thread its clips: the largest first, each to the thread that has least to do. It depends on the
// masks alone, so the order in which gradients are added does too.
func (m *Machine) dealClips() {
	costs := m.costs[:m.active]
	for b := range costs {
		costs[b] = clipCost{clip: b}
		for _, buf := range m.plan.layout.buffers {
			costs[b].cells += buf.width * m.rowsIn(buf.rows, b)
		}
	}
	slices.SortFunc(costs, func(a, b clipCost) int { return cmp.Or(b.cells-a.cells, a.clip-b.clip) })
	for _, w := range m.workers {
		w.load = 0
	}
	for _, c := range costs {
		least := m.workers[0]
		for _, w := range m.workers[1:] {
			if w.load < least.load {
				least = w
			}
		}
		least.load += c.cells
		m.clipsOf[c.clip] = least.index
	}
}

// rowsIn is the number of rows of clip b in a space.
func (m *Machine) rowsIn(r rowCount, b int) int {
	if r.offsets == nil {
		return r.capacity
	}
	return m.rowsOf(r.offsets, b)
}

// layOut places the buffers of clip b.
func (w *worker) layOut(b int) {
	l := &w.m.plan.layout
	used, free := l.run(w.laidOut, w.free, func(r rowCount) int { return w.m.rowsIn(r, b) })
	w.at, w.free = w.laidOut, free
	if used > len(w.clip) { // smaller buffers can leave worse gaps; those of full spaces are sure to fit
		w.at = l.full
	}
}

// runClips takes this worker's clips through the clip operations.
func (w *worker) runClips() error {
	clear(w.sums)
	for b := range w.m.active {
		if w.m.clipsOf[b] != w.index {
			continue
		}
		w.layOut(b)
		if w.m.profile != nil {
			w.m.profile.clip(w, b)
			continue
		}
		x := w.m.exchange
		if x == nil || b != x.last[w.index] {
			for _, do := range w.m.clip {
				do(w, b)
			}
			continue
		}
		for i, do := range w.m.clip {
			do(w, b)
			x.completed(w.m.plan, i)
		}
	}
	return nil
}

// addSums adds all threads' sums over this thread's share of every gradient to the first thread's, unless that was done
// for the peers, and squares them.
func (w *worker) addSums() error {
	p := w.m.plan
	for _, n := range p.tensorSums {
		if w.m.exchange != nil {
			break
		}
		out := w.m.floats[n]
		at := p.sumAt[n]
		first, last := share(len(out), w.index, w.threads)
		for _, other := range w.m.workers[1:] {
			kernel.Accumulate(out[first:last], other.sums[at+first:at+last])
		}
	}
	for i, n := range p.epilogue {
		if p.squaresAt(n) < 0 {
			continue
		}
		w.squares[i] = 0
		for _, c := range p.children[n] {
			first, last := share(len(w.m.floats[c]), w.index, w.threads)
			w.squares[i] += kernel.SumSquares(w.m.floats[c][first:last])
		}
	}
	return nil
}

// squaresAt is the place in the epilogue of a sum of squares whose tensors are all sums over clips; -1 for others.
func (p *plan) squaresAt(n *G.Node) int {
	if _, ok := n.Op().(*graph.SumSquaresOp); !ok {
		return -1
	}
	for _, c := range p.children[n] {
		if _, summed := p.sumAt[c]; !summed {
			return -1
		}
	}
	return slices.Index(p.epilogue, n)
}
