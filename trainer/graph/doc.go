// Package graph is the one description of the model: the operations of a video
// JEPA, each a gorgonia.Op that any machine can run.
//
// Every operation states its result's shape, a plain Go implementation (Do), and
// its gradient as nodes of this package's own operations (SymDiff). Gorgonia's
// tape machine runs a graph through Do: slow, and the oracle for the machines that
// are fast.
//
// # Tokens are packed
//
// Masks keep a different number of tokens for every clip, so token matrices are
// packed: a matrix [rows, D] holds segments end to end, and an int32 vector of
// offsets [S+1] says where each begins. offsets[0] is 0; segment s is rows
// offsets[s] up to offsets[s+1]. Rows at and beyond offsets[S] are padding up to
// the capacity the graph was built with: finite, of no meaning, with zero gradient.
// A clip owns the same number of consecutive segments in every such space.
//
// # Letters
//
//	B clips   S segments   R rows (tokens), at capacity   D features   V rows of a table
//	T H W tokens in time, height and width                  K inputs of a linear map
//
// Values are dense tensors of float32 or float64, indices are int32; a scalar is a
// vector of one element. Float64 exists for gradient checks.
//
// # Errors
//
// Building a node checks kinds and shapes and returns an error that names the
// operation and the shapes. Do checks only what depends on run-time values:
// offsets and indices.
package graph
