// Package xla runs a graph.Program on an accelerator, through StableHLO and a device that compiles it.
//
//	device.go     what is needed of a device
//	space.go      which matrices share rows, and what each node is
//	shape.go      sizes that follow from the masks, for which a module is compiled
//	table.go      what the host works out from offsets and indices
//	optimizer.go  state in flat buffers, and AdamW on them
//	lower*.go     operations as StableHLO
//	module.go     the two modules of a program: a run and a step
//	machine.go    the run: upload, start, wait; memory.go says what it takes
package xla
