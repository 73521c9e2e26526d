package cpu

import (
	"fmt"
	"sync"
	"time"

	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
)

// Roofline measures how fast this machine multiplies matrices of the size that
// training multiplies, with threads threads at once, for about the given time:
// operations per second of the best round. In FP32 rounds of the library's product and
// of the machine's own alternate and the better counts; in BF16 there is the machine's
// own. Nothing that is built on products can be faster, so a step's share of it says
// how well the machine is used.
func Roofline(threads int, precision Precision, length time.Duration) (float64, error) {
	if threads < 1 {
		return 0, fmt.Errorf("threads is %d, want at least 1", threads)
	}
	if err := kernel.Setup(); err != nil {
		return 0, err
	}
	const m, n, k, rounds = 512, 576, 192, 20 // a clip's rows, and the qkv map of 192 features
	half := precision == BF16
	panels := kernel.PanelFloats(k, n, half)
	mem, err := newArena(threads * (m*k + n*k + m*n + panels + m*k/2 + n*k/2 + 8*cacheLine))
	if err != nil {
		return 0, fmt.Errorf("memory for the roofline: %w", err)
	}
	defer func() { _ = mem.free() }()
	var all sync.WaitGroup
	best := make([]float64, threads)
	for t := range threads {
		take := func(floats int) []float32 { return mem.take(floats, cacheLine) }
		a, b, c, packed := take(m*k), take(n*k), take(m*n), take(panels)
		aHalf, bHalf := halves(take(m*k/2), m*k), halves(take(n*k/2), n*k)
		all.Go(func() {
			lockForKernels()
			for i := range a {
				a[i] = float32(i%7) - 3
			}
			for i := range b {
				b[i] = float32(i%5) - 2
			}
			x, w := kernel.Cells{F: a}, kernel.Cells{F: b}
			if half {
				kernel.Narrow(aHalf, a)
				kernel.Narrow(bHalf, b)
				x, w = kernel.Cells{H: aHalf}, kernel.Cells{H: bHalf}
			}
			kernel.PackColumns(packed, w, k, n)
			measure := func(product func() bool) {
				round, done := time.Now(), true
				for range rounds {
					done = product() && done
				}
				if !done {
					return
				}
				best[t] = max(best[t], 2*m*n*k*rounds/time.Since(round).Seconds())
			}
			for began := time.Now(); time.Since(began) < length; {
				measure(func() bool {
					kernel.Product(kernel.Plain, kernel.Cells{F: c}, x, m, n, k, packed, nil, kernel.Cells{})
					return true
				})
				if !half {
					measure(func() bool { return kernel.LibraryProduct(c, a, b, m, n, k) })
				}
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
