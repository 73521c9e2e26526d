// Package queue holds the life of a job as a pure state machine, and the SQL stores that make each step durable.
//
//	           Lease               Heartbeat              Done
//	┌─ QUEUED ───────▶ LEASED ─────────────▶ RUNNING ──────────────▶ SUCCEEDED
//	│    ▲               │                     │  │
//	│    └── HandBack, Expire, Fail (infra) ───┘  │ Fail (job), or lost MaxLosses times
//	│                    │                     │  └────────────────▶ FAILED
//	│                    └────── Cancel ───────┤
//	│ Cancel                                   ▼
//	└──────────────────────────────────▶  CANCELLING ── any end ───▶ CANCELLED
//
// Who moves a job on, and what a crash leaves behind:
//
//   - QUEUED: the dispatcher leases it. A crash leaves it queued.
//   - LEASED: its worker's first report makes it RUNNING. A lost worker or lost message leaves the lease to run out.
//   - RUNNING: its worker ends it. A lost worker leaves the lease to run out, and its last checkpoint to the next attempt.
//   - CANCELLING: its worker confirms, or the lease runs out. A job that is stopped for its deadline ends as FAILED.
//   - SUCCEEDED, FAILED, CANCELLED: nothing moves it on.
//
// A held job that is preempted stays as it is until its worker hands it back, and is then QUEUED, uncharged.
//
// Fencing: each lease raises the job's epoch, and every word of a worker carries the epoch it was given. At any moment at
// most one (worker, epoch) holds a job, and an event of any other epoch, or after the lease was taken back, changes
// nothing. Execution is at least once; a result is published exactly once.
package queue
