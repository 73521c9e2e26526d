// Package worker runs jobs for a coordinator, one at a time.
//
//	protocol.go  the worker's side of WorkerService.Attach: a pure state machine
//	worker.go    the one loop that owns it: stream, attempt, clock and signals in, messages and stops out
//	stream.go    keeps a stream to the coordinator, attaching again when it breaks
//	jobs.go      the Runner that does the work: prepares the attempt's folder, names the artifacts
//	train.go     TrainSpec -> trainer.Config, field by field
//	score.go     ScoreSpec -> plausibility.Config, field by field
//	progress.go  which reports of progress are worth a line of the log
//	blame.go     whether an attempt's error is the job's fault or the machine's
//
// Who may work on a job is decided by leases. A lease is counted from the moment its heartbeat was sent, on this
// process's monotonic clock, so the worker believes it over before the coordinator does and stops by itself:
//
//	sent + duration − margin  <  coordinator's receipt + duration
//
// Nothing depends on that alone: every word carries the lease's epoch and every attempt has a folder of its own, so an
// attempt that overstays changes nothing.
package worker
