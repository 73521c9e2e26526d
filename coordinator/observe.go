package coordinator

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/surmise-ml/surmise/coordinator/queue"
)

// Observer is told what happens in a coordinator. Calls come from many goroutines at once and must not wait.
type Observer interface {
	// Submitted: so many jobs were stored, of a sweep all at once.
	Submitted(jobs int)
	// Leased: a job was given to a worker. waited is the time since its submission, by the store's clock; negative when
	// this is not its first lease.
	Leased(waited time.Duration)
	// Dispatched: a worker was given a job so long after both were there to be brought together. Jobs that were queued
	// again are not told of.
	Dispatched(took time.Duration)
	// LeaseLost: an attempt ended without a result, though the job goes on or was given up.
	LeaseLost(Loss)
	// Ended: a job reached its last state.
	Ended(queue.Job)
	// Stale: a worker spoke of a lease that is over.
	Stale()
	// Watching: a stream of events or of log lines began (+1) or ended (-1).
	Watching(change int)
}

// Loss is how a lease was lost.
type Loss string

const (
	LossExpired        Loss = "expired"        // it was not renewed in time
	LossReattached     Loss = "reattached"     // its worker came back without it
	LossInfrastructure Loss = "infrastructure" // its worker failed through no fault of the job's
	LossHandedBack     Loss = "handed_back"    // its worker stops, or the job is cancelled
)

// Losses returns all of them.
func Losses() []Loss {
	return []Loss{LossExpired, LossReattached, LossInfrastructure, LossHandedBack}
}

// lossOf tells whether an event that a worker sent gives its lease up.
func lossOf(e queue.Event) (Loss, bool) {
	switch e := e.(type) {
	case queue.Fail:
		return LossInfrastructure, e.Infrastructure
	case queue.HandBack:
		return LossHandedBack, true
	}
	return "", false
}

// observe tells the observer what a stored change means.
func (s *Server) observe(job queue.Job, log queue.LogType) {
	switch log {
	case queue.LogSubmitted:
		s.observer.Submitted(1)
	case queue.LogLeased:
		waited := time.Duration(-1)
		if job.Epoch == 1 {
			waited = max(0, job.LeaseUntil.Add(-s.lease).Sub(job.Created))
		}
		s.observer.Leased(waited)
	case queue.LogEnded:
		s.observer.Ended(job)
	}
}

type unobserved struct{}

func (unobserved) Submitted(int)            {}
func (unobserved) Leased(time.Duration)     {}
func (unobserved) Dispatched(time.Duration) {}
func (unobserved) LeaseLost(Loss)           {}
func (unobserved) Ended(queue.Job)          {}
func (unobserved) Stale()                   {}
func (unobserved) Watching(int)             {}

// Workers tells how many workers are attached, how many of those have what these needs ask for, and how many of those have
// no job.
func (s *Server) Workers(needs queue.Needs) (attached, able, idle int) {
	c := s.workers.crew(needs)
	return c.attached, c.able, c.idle
}

// Ready is nil when jobs can be taken: the coordinator is not stopping, its store answers and takes changes, and so does its
// audit log.
func (s *Server) Ready(ctx context.Context) error {
	select {
	case <-s.stopping:
		return errors.New("stopping")
	default:
	}
	if err := s.audit.ready(s.clock.Now()); err != nil { // it is tried again: nobody may call where this says no
		return errors.New("the audit log cannot be written")
	}
	if _, _, err := s.store.List(ctx, queue.Filter{Page: queue.Page{Limit: 1}}); err != nil {
		return err
	}
	return s.store.Writable(ctx)
}

// healthEvery is how often the health service is brought up to date, and readyPatience how long the store may take to answer.
const (
	healthEvery   = 5 * time.Second
	readyPatience = 5 * time.Second
)

// reportHealth has the health service say what Ready says, for the coordinator as a whole, "", and for each of its services.
func (s *Server) reportHealth(ctx context.Context, to *health.Server, services []string) {
	said := healthv1.HealthCheckResponse_SERVING
	for {
		asked, cancel := context.WithTimeout(ctx, readyPatience)
		err := s.Ready(asked)
		cancel()
		now := healthv1.HealthCheckResponse_SERVING
		if err != nil {
			now = healthv1.HealthCheckResponse_NOT_SERVING
		}
		if ctx.Err() != nil {
			return
		}
		if now != said {
			if err != nil {
				s.log.Error("not ready", "error", err)
			}
			for _, name := range services {
				to.SetServingStatus(name, now)
			}
			said = now
		}
		select {
		case <-ctx.Done():
			return
		case <-s.clock.After(healthEvery):
		}
	}
}
