package trainer

import (
	"math"

	"gonum.org/v1/gonum/mat"
)

// Collapse holds the monitors of collapse, measured on the target encoder's
// normalised outputs of one batch. A loss that falls says nothing when every clip
// has come to look alike; these do.
type Collapse struct {
	// EffectiveRank is exp of the entropy of the normalised singular values, 1 to the lesser of D and rankSide (RankMe,
	// Garrido et al. 2023).
	EffectiveRank float64
	FeatureStd    float64 // standard deviation over tokens, mean over features; 0: every token is alike
	Cosine        float64 // mean cosine between tokens of different clips, wherever they lie; near 1: every token is alike
	// ClipShare is the share of the variance of tokens that lies between clips at one place, 0 to 1; near 0 every clip is alike.
	// Tokens that depend on their place alone have a high rank, a spread and no cosine, and yet say nothing of a clip: a
	// predictor that is told the place predicts them without looking. It is 1 of a single clip, which is like no other.
	ClipShare float64
}

// Collapsed says whether every clip looks nearly alike to the encoder: what it predicts then says nothing of a video. A training
// that goes well ends above a rank of 10, below a cosine of 0.8 and above a share of 0.3.
func (c Collapse) Collapsed() bool {
	return c != (Collapse{}) && (c.EffectiveRank < 2 || c.Cosine > 0.98 || c.ClipShare < 0.02)
}

// collapse measures the batch of the newest step. Pixels cannot collapse: a model that
// predicts them has zeros.
func (s *stepper) collapse() Collapse {
	if s.cfg.Model.OfPixels() {
		return Collapse{}
	}
	return measureCollapse(s.m.Floats(s.model.Target), s.model.Clips, s.cfg.Model.TargetDim())
}

// monitorRows bounds the tokens a monitor looks at. rankSide bounds the side of the matrix whose eigenvalues are taken,
// which cost its third power: 10 ms for 128, 0.07 s for 384, and 2 s for the 1,408 features of ViT-g, where every report
// would wait for them. Of more features the rank is that of rankSide tokens: it tells a collapse as well.
const (
	monitorRows = 2048
	rankSide    = 384
)

// measureCollapse looks at x [clips·N,d], evenly spaced rows where there are more than monitorRows.
func measureCollapse(x []float32, clips, d int) Collapse {
	rows := len(x) / d
	stride := max(1, (rows+monitorRows-1)/monitorRows)
	perClip := rows / clips

	looked := mat.NewDense((rows+stride-1)/stride, d, nil)
	mean, square := make([]float64, d), make([]float64, d)
	unit := make([]float64, d)   // Σ of unit tokens
	inClip := make([]float64, d) // the same, of the clip at hand
	var n, pairs, within float64
	var clipRows float64
	endClip := func() {
		for _, v := range inClip {
			within += v * v
		}
		pairs -= clipRows * clipRows
		clear(inClip)
		clipRows = 0
	}
	for i := 0; i < rows; i += stride {
		if i > 0 && i/perClip != (i-stride)/perClip {
			endClip()
		}
		var norm float64
		row := looked.RawRowView(i / stride)
		for j := range d {
			v := float64(x[i*d+j])
			row[j] = v
			mean[j] += v
			square[j] += v * v
			norm += v * v
		}
		norm = math.Sqrt(max(norm, 1e-30))
		for j := range d {
			inClip[j] += row[j] / norm
			unit[j] += row[j] / norm
		}
		n, clipRows = n+1, clipRows+1
	}
	endClip()
	pairs += n * n

	var gram mat.SymDense // XᵀX, [d,d], or XXᵀ of some rows: their eigenvalues are the same but for zeros
	if d <= rankSide {
		gram.SymOuterK(1, looked.T())
	} else {
		gram.SymOuterK(1, someRows(looked, rankSide))
	}
	c := Collapse{EffectiveRank: effectiveRank(&gram)}
	var all float64
	for j := range d {
		c.FeatureStd += math.Sqrt(max(0, square[j]/n-mean[j]/n*mean[j]/n)) / float64(d)
		all += unit[j] * unit[j]
	}
	if pairs > 0 {
		c.Cosine = (all - within) / pairs
	}
	c.ClipShare = clipShare(x, clips, d)
	return c
}

// clipShare is Collapse.ClipShare of x [clips·N,d]: of evenly spaced places where all have more than monitorRows rows.
func clipShare(x []float32, clips, d int) float64 {
	perClip := len(x) / d / clips
	if clips < 2 || perClip == 0 {
		return 1
	}
	stride := max(1, (perClip*clips+monitorRows-1)/monitorRows)
	var n float64
	mean, square := make([]float64, d), make([]float64, d) // Σ and Σ of squares over all rows
	var between float64                                    // Σ over places and features of the variance between clips
	here, squareHere := make([]float64, d), make([]float64, d)
	for at := 0; at < perClip; at += stride {
		clear(here)
		clear(squareHere)
		for b := range clips {
			row := x[(b*perClip+at)*d:][:d]
			for j, v := range row {
				here[j] += float64(v)
				squareHere[j] += float64(v) * float64(v)
			}
		}
		for j := range d {
			between += (squareHere[j] - here[j]*here[j]/float64(clips)) / float64(clips-1)
			mean[j] += here[j]
			square[j] += squareHere[j]
		}
		n++
	}
	rows := n * float64(clips)
	var whole float64
	for j := range d {
		whole += square[j]/rows - mean[j]/rows*mean[j]/rows
	}
	if whole <= 0 { // every token is one
		return 0
	}
	return min(1, max(0, between/n/whole))
}

// someRows is at most so many rows of x, evenly spaced.
func someRows(x *mat.Dense, most int) *mat.Dense {
	rows, d := x.Dims()
	n := min(rows, most)
	out := mat.NewDense(n, d, nil)
	for i := range n {
		out.SetRow(i, x.RawRowView(i*rows/n))
	}
	return out
}

// effectiveRank of X from XᵀX or XXᵀ: exp of the entropy of X's normalised singular values. 0 if they cannot be had.
func effectiveRank(gram *mat.SymDense) float64 {
	var eig mat.EigenSym
	if !eig.Factorize(gram, false) {
		return 0
	}
	var sum float64
	values := eig.Values(nil)
	for i, v := range values {
		values[i] = math.Sqrt(max(0, v))
		sum += values[i]
	}
	if sum == 0 {
		return 0
	}
	var entropy float64
	for _, v := range values {
		if p := v / sum; p > 0 {
			entropy -= p * math.Log(p)
		}
	}
	return math.Exp(entropy)
}
