// Package slurm holds what a Slurm cluster is given.
package slurm

import _ "embed" // for the script

// WorkerScript is worker.sh: the job of one worker.
//
//go:embed worker.sh
var WorkerScript string
