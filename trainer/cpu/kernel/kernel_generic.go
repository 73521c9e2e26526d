package kernel

import "math"

// reference is every kernel as its definition, in plain Go: what the native kernels are tested against, and what runs
// in a build without them. Inner sums and functions are in float64, products in float32. Kernels on bfloat16 widen what
// they read, compute in float32 and round the result: no build runs them, they are what the native ones are held to.
type reference struct{}

func (reference) narrow(dst []uint16, src []float32) {
	for i, x := range src {
		u := math.Float32bits(x)
		if x != x {
			dst[i] = uint16(u>>16) | 0x40
			continue
		}
		dst[i] = uint16((u + 0x7fff + u>>16&1) >> 16)
	}
}

// float32s are the elements of c, widened if need be; narrowBack stores what a kernel wrote to them.
func float32s(c Cells) []float32 {
	if !c.Half() {
		return c.F
	}
	x := make([]float32, len(c.H))
	for i, h := range c.H {
		x[i] = math.Float32frombits(uint32(h) << 16)
	}
	return x
}

func narrowBack(c Cells, x []float32) {
	if c.Half() {
		reference{}.narrow(c.H, x)
	}
}

// Panels of the reference are the matrix itself, [k,n] float32.
func (reference) packRows(panels []float32, b Cells, _, _ int) { copy(panels, float32s(b)) }

func (reference) packColumns(panels []float32, b Cells, k, n int) {
	x := float32s(b)
	for j := range n {
		for p := range k {
			panels[p*n+j] = x[j*k+p]
		}
	}
}

func (r reference) product(finish Finish, c, a Cells, m, n, k int, panels, bias []float32, beside Cells) {
	out, x, extra := float32s(c), float32s(a), float32s(beside)
	defer func() { narrowBack(c, out) }()
	beta := float32(0)
	switch finish {
	case Adding:
		beta = 1
	case WithResidual: // out may be extra
		copy(out, extra)
		beta = 1
	}
	r.gemm(false, m, n, k, x, panels, beta, out)
	for i := 0; bias != nil && i < m*n; i++ {
		out[i] += bias[i%n]
	}
	switch finish {
	case WithGELU:
		copy(extra, out)
		r.gelu(out, out)
		narrowBack(beside, extra)
	case WithGELUGrad:
		r.geluGrad(out, extra, out)
		r.gelu(extra, extra)
		narrowBack(beside, extra)
	}
}

func (r reference) productSum(c []float32, a, b Cells, m, n, k int, _ []float32) {
	r.gemm(true, m, n, k, float32s(a), float32s(b), 1, c)
}

// gemm adds op(A) B to beta C; op(A) is [m,k], stored as [k,m] if transposed. It takes four terms of every element in a row
// of C at a time.
func (reference) gemm(transA bool, m, n, k int, a, b []float32, beta float32, c []float32) {
	rowA, columnA := k, 1 // op(A)[i,p] is a[i*rowA + p*columnA]
	if transA {
		rowA, columnA = 1, m
	}
	for i := range m {
		row := c[i*n:][:n]
		if beta == 0 {
			clear(row)
		}
		a := a[i*rowA:]
		p := 0
		for ; p+4 <= k; p += 4 {
			a0, a1, a2, a3 := a[p*columnA], a[(p+1)*columnA], a[(p+2)*columnA], a[(p+3)*columnA]
			b0, b1, b2, b3 := b[p*n:][:n], b[(p+1)*n:][:n], b[(p+2)*n:][:n], b[(p+3)*n:][:n]
			for j := range row {
				row[j] += (a0*b0[j] + a1*b1[j]) + (a2*b2[j] + a3*b3[j])
			}
		}
		for ; p < k; p++ {
			a0, b0 := a[p*columnA], b[p*n:][:n]
			for j := range row {
				row[j] += a0 * b0[j]
			}
		}
	}
}

func (reference) libraryProduct(c, a, b []float32, m, n, k int) bool {
	for i := range m {
		for j := range n {
			c[i*n+j] = float32(dot(a[i*k:][:k], b[j*k:][:k]))
		}
	}
	return true
}

func (reference) gelu(out, x []float32) {
	for i, v := range x {
		out[i] = float32(float64(v) * normal(float64(v)))
	}
}

func (reference) geluGrad(dx, x, dy []float32) {
	for i := range x {
		v := float64(x[i])
		density := math.Exp(-v*v/2) / math.Sqrt(2*math.Pi)
		dx[i] = float32(float64(dy[i]) * (normal(v) + v*density))
	}
}

// normal is the normal distribution function.
func normal(x float64) float64 { return 0.5 * math.Erfc(-x/math.Sqrt2) }

func (reference) swiGLU(c, a, b Cells, n int) {
	y := float32s(c)
	defer func() { narrowBack(c, y) }()
	u, v := float32s(a), float32s(b)
	for i := range n {
		y[i] = float32(float64(u[i]) * logistic(float64(u[i])) * float64(v[i]))
	}
}

func (reference) swiGLUGrad(c, a, b, dy Cells, of, n int) {
	dx := float32s(c)
	defer func() { narrowBack(c, dx) }()
	u, v, d := float32s(a), float32s(b), float32s(dy)
	for i := range n {
		x := float64(u[i])
		g := float64(d[i]) * logistic(x)
		if of == 0 {
			g *= float64(v[i]) * (1 + x*logistic(-x))
		} else {
			g *= x
		}
		dx[i] = float32(g)
	}
}

func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

func (reference) rotate(out, in Cells, tokens []int32, c, s []float32, heads, headDim, turned int) {
	y, x := float32s(out), float32s(in)
	defer func() { narrowBack(out, y) }()
	width := heads * headDim
	for r, token := range tokens {
		row, to := x[r*3*width:][:3*width], y[r*3*width:][:3*width]
		copy(to[2*width:], row[2*width:])
		for first := 0; first < 2*width; first += headDim {
			copy(to[first+turned:first+headDim], row[first+turned:])
			for j := 0; j < turned; j += 2 {
				at := int(token)*turned + j
				u, v := row[first+j], row[first+j+1]
				to[first+j] = c[at]*u + s[at]*v
				to[first+j+1] = c[at+1]*v + s[at+1]*u
			}
		}
	}
}

func (reference) layerNorm(c Cells, x []float32, m, n int, gamma, beta []float32, eps float32) {
	y := float32s(c)
	defer func() { narrowBack(c, y) }()
	for i := range m {
		in, out := x[i*n:][:n], y[i*n:][:n]
		mean, rstd := rowStatistics(in, eps)
		for j, v := range in {
			value := (float64(v) - mean) * rstd
			if gamma != nil {
				value *= float64(gamma[j])
			}
			if beta != nil {
				value += float64(beta[j])
			}
			out[j] = float32(value)
		}
	}
}

// rowStatistics returns the mean of a row and 1/√(variance + eps).
func rowStatistics(row []float32, eps float32) (mean, rstd float64) {
	for _, v := range row {
		mean += float64(v)
	}
	mean /= float64(len(row))
	var variance float64
	for _, v := range row {
		variance += (float64(v) - mean) * (float64(v) - mean)
	}
	return mean, 1 / math.Sqrt(variance/float64(len(row))+float64(eps))
}

// layerNormGrad: with x̂ = (x - mean) rstd and g = dy gamma, dx = base + rstd (g - mean(g) - x̂ mean(g x̂)).
func (reference) layerNormGrad(dx, base, x []float32, cells Cells, m, n int, gamma []float32, eps float32, dgamma, dbeta []float32) {
	dy := float32s(cells)
	g := func(i, j int) float64 {
		if gamma == nil {
			return float64(dy[i*n+j])
		}
		return float64(dy[i*n+j]) * float64(gamma[j])
	}
	for i := range m {
		row := x[i*n:][:n]
		mean, rstd := rowStatistics(row, eps)
		var meanG, meanGX float64
		for j, v := range row {
			xhat := (float64(v) - mean) * rstd
			if dgamma != nil {
				dgamma[j] += float32(float64(dy[i*n+j]) * xhat)
			}
			if dbeta != nil {
				dbeta[j] += dy[i*n+j]
			}
			meanG += g(i, j) / float64(n)
			meanGX += g(i, j) * xhat / float64(n)
		}
		if dx == nil {
			continue
		}
		for j, v := range row {
			xhat := (float64(v) - mean) * rstd
			d := rstd * (g(i, j) - meanG - xhat*meanGX)
			if base != nil {
				d += float64(base[i*n+j])
			}
			dx[i*n+j] = float32(d)
		}
	}
}

func (r reference) attention(to, from Cells, offsets, bounds, queries []int32, heads, headDim, block int, scratch []float32) {
	out, qkv := float32s(to), float32s(from)
	defer func() { narrowBack(to, out) }()
	eachQuery(qkv, offsets, bounds, queries, heads, headDim, block, scratch, func(q attentionQuery) {
		result := out[q.to*heads*headDim+q.head*headDim:][:headDim]
		clear(result)
		for j, p := range q.probabilities {
			for d, v := range q.value(j) {
				result[d] += p * v
			}
		}
	})
}

func (r reference) attentionGrad(to, from, grad Cells, offsets []int32, heads, headDim, block int, scratch []float32) {
	dqkv, qkv, dout := float32s(to), float32s(from), float32s(grad)
	defer func() { narrowBack(to, dqkv) }()
	width := heads * headDim
	for i := 1; i < len(offsets); i++ {
		clear(dqkv[int(offsets[i-1])*3*width : int(offsets[i])*3*width])
	}
	scale := 1 / math.Sqrt(float64(headDim))
	eachQuery(qkv, offsets, nil, nil, heads, headDim, block, scratch, func(q attentionQuery) {
		do := dout[q.row*width+q.head*headDim:][:headDim]
		var mean float64 // sum over keys of P dP
		for j, p := range q.probabilities {
			mean += float64(p) * dot(do, q.value(j))
		}
		at := func(row, part int) []float32 { return dqkv[(row*3+part)*width+q.head*headDim:][:headDim] }
		dq := at(q.row, 0)
		for j, p := range q.probabilities {
			ds := float32(float64(p) * (dot(do, q.value(j)) - mean) * scale)
			dk, dv := at(q.start+j, 1), at(q.start+j, 2)
			for d := range headDim {
				dq[d] += ds * q.key(j)[d]
				dk[d] += ds * q.query()[d]
				dv[d] += p * do[d]
			}
		}
	})
}

// attentionQuery is one query of one head, whose result is row to, and the keys it sees, rows start onward.
type attentionQuery struct {
	row, to, head, start int
	qkv                  []float32 // [rows, 3·width]
	width, headDim       int
	probabilities        []float32 // [keys seen]
}

// at returns a row's part of this head, [headDim]: 0 the query, 1 the key, 2 the value.
func (q attentionQuery) at(row, part int) []float32 {
	return q.qkv[(row*3+part)*q.width+q.head*q.headDim:][:q.headDim]
}
func (q attentionQuery) query() []float32      { return q.at(q.row, 0) }
func (q attentionQuery) key(j int) []float32   { return q.at(q.start+j, 1) }
func (q attentionQuery) value(j int) []float32 { return q.at(q.start+j, 2) }

func eachQuery(qkv []float32, offsets, bounds, queries []int32, heads, headDim, block int, scratch []float32, visit func(attentionQuery)) {
	if queries == nil {
		bounds = offsets
	}
	width := heads * headDim
	scale := 1 / math.Sqrt(float64(headDim))
	for segment := 1; segment < len(offsets); segment++ {
		start, end := int(offsets[segment-1]), int(offsets[segment])
		for head := range heads {
			for to := int(bounds[segment-1]); to < int(bounds[segment]); to++ {
				row := to
				if queries != nil {
					row = start + int(queries[to])
				}
				seen := end - start
				if block > 0 {
					seen = min(seen, ((row-start)/block+1)*block)
				}
				scores := scratch[:seen]
				q := attentionQuery{row, to, head, start, qkv, width, headDim, scores}
				highest := math.Inf(-1)
				for j := range scores {
					scores[j] = float32(dot(q.query(), q.key(j)) * scale)
					highest = math.Max(highest, float64(scores[j]))
				}
				var sum float64
				for j, s := range scores {
					e := math.Exp(float64(s) - highest)
					scores[j] = float32(e)
					sum += e
				}
				for j := range scores {
					scores[j] = float32(float64(scores[j]) / sum)
				}
				visit(q)
			}
		}
	}
}

func dot(a, b []float32) float64 {
	var sum float64
	for i, v := range a {
		sum += float64(v) * float64(b[i])
	}
	return sum
}

func (reference) scatterAdd(dst, src []float32, n int, idx []int32) {
	for i, row := range idx {
		for j := range n {
			dst[int(row)*n+j] += src[i*n+j]
		}
	}
}

func (reference) add(dst, a, b []float32) {
	for i := range dst {
		dst[i] = a[i] + b[i]
	}
}

func (reference) scale(dst, a []float32, factor float32) {
	for i := range dst {
		dst[i] = factor * a[i]
	}
}

func (reference) columnSum(dst []float32, cells Cells, m, n int) {
	x := float32s(cells)
	for j := range n {
		var sum float64
		for i := range m {
			sum += float64(x[i*n+j])
		}
		dst[j] += float32(sum)
	}
}

func (reference) lpSum(pred, target []float32, exponent float64) float64 {
	var sum float64
	for i := range pred {
		sum += power(math.Abs(float64(pred[i])-float64(target[i])), exponent)
	}
	return sum / exponent
}

func (reference) lpGrad(dpred, pred, target []float32, weight float32, exponent float64) {
	for i := range pred {
		d := float64(pred[i]) - float64(target[i])
		if d == 0 {
			dpred[i] = 0
			continue
		}
		dpred[i] = float32(float64(weight) * math.Copysign(power(math.Abs(d), exponent-1), d))
	}
}

// power is math.Pow without its cost for the usual exponents, and NaN for a NaN base with exponent 0.
func power(x, exponent float64) float64 {
	switch exponent {
	case 0:
		return 1 + 0*x
	case 1:
		return x
	case 2:
		return x * x
	}
	return math.Pow(x, exponent)
}

func (reference) rowAbsError(dst, pred, target []float32, m, n int) {
	for i := range m {
		var sum float64
		for j := range n {
			sum += math.Abs(float64(pred[i*n+j]) - float64(target[i*n+j]))
		}
		dst[i] = float32(sum / float64(n))
	}
}

func (reference) sumSquares(x []float32) float64 {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	return sum
}

func (reference) adamWEMA(p, g, m, v, ema []float32, h AdamW) {
	root := math.Sqrt(h.Correction2)
	for i := range p {
		s := h.Scale * float64(g[i])
		mi := h.Beta1*float64(m[i]) + (1-h.Beta1)*s
		vi := h.Beta2*float64(v[i]) + (1-h.Beta2)*s*s
		pi := (1-h.LR*h.WeightDecay)*float64(p[i]) - h.LR/h.Correction1*mi/(math.Sqrt(vi)/root+h.Eps)
		m[i], v[i], p[i] = float32(mi), float32(vi), float32(pi)
		if ema != nil {
			ema[i] = float32(h.Momentum*float64(ema[i]) + (1-h.Momentum)*pi)
		}
	}
}
