package cpu

import (
	"fmt"
	"sync"
	"time"

	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
)

// Roofline measures how fast this machine multiplies matrices of the size that
// training multiplies, with threads threads at once, for about the given time:
// operations per second of the best round. Nothing that is built on products can be
// faster, so a step's share of it says how well the machine is used.
func Roofline(threads int, length time.Duration) (float64, error) {
	if threads < 1 {
		return 0, fmt.Errorf("threads is %d, want at least 1", threads)
	}
	kernel.Setup()
	const m, n, k, rounds = 512, 576, 192, 20 // a clip's rows, and the qkv map of 192 features
	mem, err := newArena(threads * (m*k + n*k + m*n))
	if err != nil {
		return 0, fmt.Errorf("memory for the roofline: %w", err)
	}
	defer func() { _ = mem.free() }()
	var all sync.WaitGroup
	best := make([]float64, threads)
	for t := range threads {
		a, b, c := mem.take(m*k, 1), mem.take(n*k, 1), mem.take(m*n, 1)
		all.Go(func() {
			lockForKernels()
			for i := range a {
				a[i] = float32(i%7) - 3
			}
			for i := range b {
				b[i] = float32(i%5) - 2
			}
			for began := time.Now(); time.Since(began) < length; {
				round := time.Now()
				for range rounds {
					kernel.Gemm(false, true, m, n, k, a, k, b, k, 0, c, n)
				}
				best[t] = max(best[t], 2*m*n*k*rounds/time.Since(round).Seconds())
			}
		})
	}
	all.Wait()
	var sum float64
	for _, x := range best {
		sum += x
	}
	return sum, nil
}
