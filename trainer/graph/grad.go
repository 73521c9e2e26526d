package graph

import (
	"fmt"

	G "gorgonia.org/gorgonia"
)

// Grad returns the gradient of a scalar ([1]) node with respect to each of wrt, built
// by walking the graph backwards through Op.Grads. Gorgonia's own Grad is not used: it
// sums partial gradients with an operation that other packages cannot recognise.
// A node of wrt that the scalar does not depend on is an error that names it.
func Grad(scalar *G.Node, wrt ...*G.Node) (G.Nodes, error) {
	order, err := Sort(scalar)
	if err != nil {
		return nil, err
	}
	// A node is on the way when one of wrt lies below it through differentiable inputs.
	onTheWay := map[*G.Node]bool{}
	for _, n := range wrt {
		onTheWay[n] = true
	}
	for _, n := range order {
		if op, ok := n.Op().(Op); ok {
			children := Children(n)
			for i, yes := range op.DiffWRT(len(children)) {
				if yes && onTheWay[children[i]] {
					onTheWay[n] = true
				}
			}
		}
	}
	seed, err := ones(scalar)
	if err != nil {
		return nil, err
	}
	grads := map[*G.Node]*G.Node{scalar: seed}
	for k := len(order) - 1; k >= 0; k-- {
		n := order[k]
		op, ok := n.Op().(Op)
		if !ok || grads[n] == nil {
			continue
		}
		children := Children(n)
		need, any := op.DiffWRT(len(children)), false
		for i := range need {
			need[i] = need[i] && onTheWay[children[i]]
			any = any || need[i]
		}
		if !any {
			continue
		}
		parts, err := op.Grads(children, n, grads[n], need)
		if err != nil {
			return nil, fmt.Errorf("gradient of %v: %w", op, err)
		}
		for i, part := range parts {
			if !need[i] {
				continue
			}
			if sum := grads[children[i]]; sum != nil {
				if part, err = Add(sum, part); err != nil {
					return nil, fmt.Errorf("gradient of %v: %w", op, err)
				}
			}
			grads[children[i]] = part
		}
	}
	out := make(G.Nodes, len(wrt))
	for i, n := range wrt {
		if out[i] = grads[n]; out[i] == nil {
			return nil, fmt.Errorf("gradient: %s does not depend on %s", scalar.Name(), n.Name())
		}
	}
	return out, nil
}

// Children returns a node's inputs in order, repeats included.
func Children(n *G.Node) G.Nodes {
	var out G.Nodes
	for it := n.Graph().From(n.ID()); it.Next(); {
		out = append(out, it.Node().(*G.Node))
	}
	return out
}

// Sort returns the nodes below and including roots, every node after its inputs. The
// order depends on the graph alone, so that machines which follow it are deterministic.
func Sort(roots ...*G.Node) (G.Nodes, error) {
	var order G.Nodes
	state := map[*G.Node]int{} // 1: being visited, 2: done
	// A stack of our own: a deep model would make a deep recursion.
	type frame struct {
		n        *G.Node
		children G.Nodes
	}
	for _, root := range roots {
		if state[root] != 0 {
			continue
		}
		state[root] = 1
		stack := []frame{{root, Children(root)}}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.children) == 0 {
				state[top.n] = 2
				order = append(order, top.n)
				stack = stack[:len(stack)-1]
				continue
			}
			c := top.children[0]
			top.children = top.children[1:]
			switch state[c] {
			case 0:
				state[c] = 1
				stack = append(stack, frame{c, Children(c)})
			case 1:
				return nil, fmt.Errorf("graph has a cycle through %v", c)
			}
		}
	}
	return order, nil
}
