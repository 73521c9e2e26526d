package cpu

import (
	"math"

	"github.com/surmise-ml/surmise/trainer/graph"
)

// The variance regulariser of one clip, in float64: it is small beside the products.
// graph.VarianceHingeOp says what is computed.

// spread returns, for feature j of rows [first,last) of x [R,d], the mean and sqrt(var + 1e-4).
func spread(x []float32, d, j, first, last int) (mean, std float64) {
	for i := first; i < last; i++ {
		mean += float64(x[i*d+j])
	}
	mean /= max(1, float64(last-first))
	var sum float64
	for i := first; i < last; i++ {
		diff := float64(x[i*d+j]) - mean
		sum += diff * diff
	}
	return mean, math.Sqrt(sum/max(1, float64(last-first-1)) + graph.VarianceFloor)
}

// meanSpread averages feature j's spread over the clip's segments.
func meanSpread(x []float32, off []int32, d, j int) float64 {
	var m float64
	for s := range len(off) - 1 {
		_, std := spread(x, d, j, int(off[s]), int(off[s+1]))
		m += std / float64(len(off)-1)
	}
	return m
}

// varianceHinge is the sum over features of max(0, 1 - mean spread).
func varianceHinge(x []float32, off []int32, d int) float64 {
	var sum float64
	for j := range d {
		sum += max(0, 1-meanSpread(x, off, d, j))
	}
	return sum
}

// varianceHingeGrad sets dx [R,d] to the gradient of varianceHinge times dloss.
func varianceHingeGrad(dx, x []float32, off []int32, d int, dloss float64) {
	for j := range d {
		active := meanSpread(x, off, d, j) < 1
		for s := range len(off) - 1 {
			first, last := int(off[s]), int(off[s+1])
			mean, std := spread(x, d, j, first, last)
			c := -dloss / float64(len(off)-1) / (std * max(1, float64(last-first-1)))
			if !active {
				c = 0
			}
			for i := first; i < last; i++ {
				dx[i*d+j] = float32(c * (float64(x[i*d+j]) - mean))
			}
		}
	}
}
