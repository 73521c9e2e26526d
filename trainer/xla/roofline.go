package xla

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// Roofline measures square products of size rows alone, in FLOP/s, a multiplication and an addition counted as two: what
// no program of products goes beyond on this device. It takes about length, and returns the best of several runs.
func Roofline(ctx context.Context, d Device, p Precision, size int, length time.Duration) (_ float64, err error) {
	const products = 16 // of a run, one after the other
	m, err := productChain(p, size, products)
	if err != nil {
		return 0, fmt.Errorf("measure products: %w", err)
	}
	e, err := d.Compile(ctx, m)
	if err != nil {
		return 0, fmt.Errorf("measure products: %w", err)
	}
	var args []Buffer
	defer func() {
		for _, b := range args {
			err = errors.Join(err, b.Close())
		}
		err = errors.Join(err, e.Close())
	}()
	for _, t := range m.Args {
		b, err := d.Upload(ctx, t, roughlyNormal(t))
		if err != nil {
			return 0, fmt.Errorf("measure products: %w", err)
		}
		args = append(args, b)
	}
	run := func() (time.Duration, error) {
		began := time.Now()
		out, err := e.Run(ctx, args)
		if err != nil {
			return 0, err
		}
		err = out[0].Wait(ctx)
		took := time.Since(began)
		return took, errors.Join(err, out[0].Close())
	}
	if _, err := run(); err != nil { // warm up
		return 0, fmt.Errorf("measure products: %w", err)
	}
	var times []time.Duration
	for end := time.Now().Add(length); len(times) < 3 || time.Now().Before(end); {
		took, err := run()
		if err != nil {
			return 0, fmt.Errorf("measure products: %w", err)
		}
		times = append(times, took)
	}
	return 2 * float64(size) * float64(size) * float64(size) * products / slices.Min(times).Seconds(), nil
}

// roughlyNormal is a matrix [N,N] of values whose products are about as large as they are. Zeros would be multiplied faster
// than any data.
func roughlyNormal(t Type) []byte {
	rng := rand.New(rand.NewPCG(1, 1))
	most := math.Sqrt(3 / float64(t.Dims[0])) // uniform up to here: a variance of 1/N
	out := make([]byte, 0, t.Bytes())
	const drawn = 1 << 20 // then they come again: to draw 8192·8192 would take longer than to multiply them
	for range min(drawn, t.Elements()) {
		x := math.Float32bits(float32((2*rng.Float64() - 1) * most))
		if t.DType == hlo.BF16 {
			out = binary.LittleEndian.AppendUint16(out, uint16(x>>16))
		} else {
			out = binary.LittleEndian.AppendUint32(out, x)
		}
	}
	for len(out) < t.Bytes() {
		out = append(out, out[:min(len(out), t.Bytes()-len(out))]...)
	}
	return out
}

// productChain is a module that multiplies x by w again and again.
func productChain(p Precision, size, products int) (Module, error) {
	t := hlo.Of(hlo.F32, size, size)
	if p == InBF16 {
		t = t.As(hlo.BF16)
	}
	f := hlo.New("products")
	x, w := f.Arg(t), f.Arg(t)
	for range products {
		x = f.Product(x, w, hlo.Dot{LeftContract: []int{1}, RightContract: []int{0}, Out: t.DType, Exact: p == InFP32})
	}
	f.Return(x)
	text, err := f.Text()
	return Module{Name: "products", Text: text, Args: f.Args(), Results: f.Results()}, err
}
