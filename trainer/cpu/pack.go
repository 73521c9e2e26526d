package cpu

import (
	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/surmise-ml/surmise/trainer/cpu/kernel"
	"github.com/surmise-ml/surmise/trainer/graph"
)

// pack is a weight matrix [out,in] laid out in panels: once a step, for all clips and threads.
type pack struct {
	weights *G.Node
	columns bool // transposed: x Wᵀ reads it so, dy W as it is
	k, n    int  // of the product that reads it
	half    bool
	at      int // in the machine's panels
}

// pack lists the panels that the steps read.
func (p *plan) pack() {
	for _, s := range p.steps {
		switch s.node.Op().(type) {
		case *graph.LinearOp, *graph.LinearGradXOp:
			if p.panelsOf(s.node) == nil {
				k := p.packFor(s.node)
				k.at = p.packFloats
				p.packs = append(p.packs, k)
				p.packFloats += roundUp(kernel.PanelFloats(k.k, k.n, k.half), cacheLine)
			}
		}
	}
}

// packFor is what a linear map, or its gradient for x, reads its weights from.
func (p *plan) packFor(n *G.Node) pack {
	w := p.children[n][1]
	out, in := w.Shape()[0], w.Shape()[1]
	k := pack{weights: w, k: out, n: in}
	if _, forward := n.Op().(*graph.LinearOp); forward {
		k = pack{weights: w, columns: true, k: in, n: out}
	}
	k.half = p.half && k.k%2 == 0 // pairs along k
	return k
}

func (p *plan) panelsOf(n *G.Node) *pack {
	want := p.packFor(n)
	for i, k := range p.packs {
		if k.weights == want.weights && k.columns == want.columns {
			return &p.packs[i]
		}
	}
	return nil
}

// scratch sizes what a worker has beside a clip's buffers.
func (p *plan) scratch() {
	operand := func(n *G.Node) {
		if pl := p.place[n]; p.half && !pl.half {
			p.narrowCells = max(p.narrowCells, roundUp(pl.width*pl.capacity, 2*cacheLine))
		}
	}
	for _, s := range p.steps {
		in := p.children[s.node]
		var need int
		switch op := s.node.Op().(type) {
		case *graph.LinearOp, *graph.LinearGradXOp:
			operand(in[0])
			if p.half {
				p.weightCells = max(p.weightCells, roundUp(in[1].Shape().TotalSize(), 2*cacheLine))
			}
		case *graph.LinearGradWOp:
			operand(in[0])
			operand(in[1])
			need = kernel.ProductSumScratch(p.place[in[0]].width, p.place[in[1]].width)
		case *graph.AttentionOp:
			qkv := p.place[in[0]]
			need = kernel.AttentionScratch(qkv.capacity, qkv.width/3/op.Heads, op.Block, qkv.half)
		case *graph.AttentionGradOp:
			qkv := p.place[in[0]]
			need = kernel.AttentionScratch(qkv.capacity, qkv.width/3/op.Heads, op.Block, qkv.half)
		case *graph.PatchifyOp:
			need = p.place[s.node].width
		}
		p.scratchFloats = max(p.scratchFloats, need)
	}
}

// packWeights lays out this worker's share of the weights. It is the same share every time, but any would do.
func (w *worker) packWeights() error {
	p := w.m.plan
	for i := w.index; i < len(p.packs); i += w.threads {
		k := p.packs[i]
		b := kernel.Cells{F: w.m.floats[k.weights]}
		if k.half {
			h := w.weights[:k.k*k.n]
			kernel.Narrow(h, b.F)
			b = kernel.Cells{H: h}
		}
		panels := w.m.panels[k.at:]
		if k.columns {
			kernel.PackColumns(panels, b, k.k, k.n)
		} else {
			kernel.PackRows(panels, b, k.k, k.n)
		}
		if w.m.release != nil {
			w.m.release()
		}
	}
	return nil
}

// isWeights tells whether panels are made of a node.
func (p *plan) isWeights(n *G.Node) bool {
	if n.Dtype() != tensor.Float32 {
		return false
	}
	for _, k := range p.packs {
		if k.weights == n {
			return true
		}
	}
	return false
}
