// Package xla runs a graph.Program on an accelerator, through StableHLO and a device that compiles it.
package xla
