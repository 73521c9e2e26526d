package xla

import (
	"encoding/json"
	"math"
	"strconv"

	G "gorgonia.org/gorgonia"

	"github.com/surmise-ml/surmise/trainer/graph"
	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// cuDNN's fused attention never writes the scores to memory. XLA reaches it through custom calls: softmax(q·k)·v with
// one length for all segments, or with a length for each. It takes bfloat16, heads of up to 128 features in steps of 8,
// and no block-causal mask; what it cannot do is left to products and a softmax.

// attended is one attention operation, as its gradient finds it again.
type attended struct {
	qkv, offsets *G.Node
	heads        int
}

// forward is what the gradient needs of the forward pass.
type forward struct {
	out  *hlo.Value // [S,L,H,E]
	stat *hlo.Value // [S,H,L]: logarithm of the sum of exponentials of each query's scores
}

// padding is the mask's name and the lengths of segments that it goes by.
func (l *lowering) padding(offsets *G.Node) (mask string, lens []*hlo.Value) {
	if l.s.segments[offsets].even {
		return "NO_MASK", nil
	}
	n := l.tables[table{kind: lengths, offsets: offsets}]
	return "PADDING", []*hlo.Value{n, n} // of queries and of keys
}

// fusedAttention returns [S,L,H,E], or nil where cuDNN does not take it.
func (l *lowering) fusedAttention(in G.Nodes, op *graph.AttentionOp, q, k, v *hlo.Value) *hlo.Value {
	if !l.o.fusesHeads(op.Block, q.Dims[3]) {
		return nil
	}
	mask, lens := l.padding(in[1])
	bhle := hlo.Of(hlo.BF16, q.Dims[0], q.Dims[2], q.Dims[1], q.Dims[3])
	results, layouts := []hlo.Type{bhle}, [][]int{headsInside}
	trained := l.hasGradient(in, op)
	if trained {
		results, layouts = append(results, hlo.Of(hlo.F32, bhle.Dims[:3]...)), append(layouts, nil)
	}
	results, layouts = append(results, workspace), append(layouts, nil)
	out := l.f.Custom(hlo.Call{Target: "__cudnn$fmhaSoftmax", Config: fusedConfig(q.Dims, mask, false), ResultLayouts: layouts},
		append([]*hlo.Value{l.operand(q), l.operand(k), l.operand(v)}, lens...), results...)
	y := l.f.Transpose(out[0], 0, 2, 1, 3)
	if trained {
		l.kept[attended{in[0], in[1], op.Heads}] = forward{y, out[1]}
	}
	return y
}

// hasGradient tells whether the gradient of an attention operation is part of the program.
func (l *lowering) hasGradient(in G.Nodes, op *graph.AttentionOp) bool {
	for _, r := range l.a.readers[in[0]] {
		if g, ok := r.node.Op().(*graph.AttentionGradOp); ok && r.i == 0 && g.Heads == op.Heads && g.Block == op.Block && l.a.children[r.node][1] == in[1] {
			return true
		}
	}
	return false
}

// fusedGradient returns the gradient for qkv [R,3·H·E]; nil where the forward pass was not fused.
func (l *lowering) fusedGradient(op *graph.AttentionGradOp, in G.Nodes) *hlo.Value {
	kept, ok := l.kept[attended{in[0], in[1], op.Heads}]
	if !ok {
		return nil
	}
	f := l.f
	q, k, v := l.heads(l.inSegments(in[1], l.values[in[0]]), op.Heads)
	dy := f.Reshape(l.masked(in[1], l.operand(l.values[in[2]])), q.Dims...)
	mask, lens := l.padding(in[1])
	bhle := hlo.Of(hlo.BF16, q.Dims[0], q.Dims[2], q.Dims[1], q.Dims[3])
	out := f.Custom(hlo.Call{Target: "__cudnn$fmhaSoftmaxBackward", Config: fusedConfig(q.Dims, mask, true),
		ResultLayouts: [][]int{headsInside, headsInside, headsInside, nil}},
		append([]*hlo.Value{l.operand(q), l.operand(k), l.operand(v), kept.stat, dy, kept.out}, lens...), bhle, bhle, bhle, workspace)
	return l.packed(in[1], f.Concat(2, l.joined(out[0]), l.joined(out[1]), l.joined(out[2])))
}

var (
	headsInside = []int{3, 1, 2, 0} // [S,H,L,E] that lies in memory as [S,L,H,E]
	workspace   = hlo.Of(hlo.U8, 0) // whose size XLA settles
)

// fusedConfig is XLA's CudnnfMHABackendConfig (xla/service/gpu/backend_configs.proto) for heads [S,L,H,E], as JSON with
// 64-bit numbers in quotes. The products are those of the plain path: scores [S,H,L,L], then values.
func fusedConfig(heads []int, mask string, backward bool) string {
	text := func(x ...int) []string {
		out := []string{}
		for _, v := range x {
			out = append(out, strconv.Itoa(v))
		}
		return out
	}
	product := func(leftContract, rightContract int, leftBatch, rightBatch [2]int) map[string]any {
		return map[string]any{
			"lhs_contracting_dimensions": text(leftContract), "rhs_contracting_dimensions": text(rightContract),
			"lhs_batch_dimensions": text(leftBatch[:]...), "rhs_batch_dimensions": text(rightBatch[:]...),
		}
	}
	tokens, scores := [2]int{0, 2}, [2]int{0, 1} // batch dimensions of [S,L,H,E] and of [S,H,L,L]
	c := map[string]any{
		"algorithm": map[string]any{"algo_id": "0", "math_type": "TENSOR_OP_MATH", "tuning_knobs": map[string]string{"17": "1", "24": "0"},
			"is_cudnn_frontend": true, "workspace_size": "0"},
		"fmha_scale":   1 / math.Sqrt(float64(heads[3])),
		"dropout_rate": 0.0,
		"intermediate_tensor_shape": map[string]any{"element_type": "BF16", "dimensions": text(heads[0], heads[2], heads[1], heads[1]),
			"tuple_shapes": []string{}, "is_dynamic_dimension": []bool{false, false, false, false},
			"layout": map[string]any{"dim_level_types": []string{}, "dim_unique": []bool{}, "dim_ordered": []bool{}, "minor_to_major": text(3, 2, 1, 0),
				"tiles": []string{}, "element_size_in_bits": "0", "memory_space": "0", "index_primitive_type": "PRIMITIVE_TYPE_INVALID",
				"pointer_primitive_type": "PRIMITIVE_TYPE_INVALID", "dynamic_shape_metadata_prefix_bytes": "0"}},
		"seed": 0, "is_flash_attention": true, "mask_type": mask, "sliding_window_length": 0,
	}
	if backward {
		c["bmm1_grad_gemm1_dot_dimension_numbers"] = product(2, 1, scores, tokens)
		c["bmm1_grad_gemm2_dot_dimension_numbers"] = product(3, 1, scores, tokens)
		c["bmm2_grad_gemm1_dot_dimension_numbers"] = product(2, 1, scores, tokens)
		c["bmm2_grad_gemm2_dot_dimension_numbers"] = product(3, 3, tokens, tokens)
	} else {
		c["bmm1_dot_dimension_numbers"] = product(3, 3, tokens, tokens)
		c["bmm2_dot_dimension_numbers"] = product(3, 1, scores, tokens)
	}
	all, err := json.Marshal(map[string]any{"cudnn_fmha_backend_config": c})
	if err != nil {
		panic(err) // plain maps of text and numbers
	}
	return string(all)
}
