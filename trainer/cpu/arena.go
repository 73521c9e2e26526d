package cpu

// take returns the next n zeroed floats, beginning at a multiple of align floats. The
// slice cannot grow into its neighbour.
func (a *arena) take(n, align int) []float32 {
	first := (a.used + align - 1) / align * align
	a.used = first + n
	return a.floats[first:a.used:a.used]
}
