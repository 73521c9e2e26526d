package coordinator

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/surmise-ml/surmise/coordinator/joblog"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// logBatch bounds the text of one response, in bytes.
const logBatch = 256 << 10

// keepLog stores the lines that came with a heartbeat which the store took: they are the holder's. A disk that fails
// costs lines, not the lease.
func (s *Server) keepLog(h *surmisev1.Heartbeat) {
	if len(h.Log) == 0 {
		return
	}
	lines := make([]joblog.Line, len(h.Log))
	for i, l := range h.Log {
		lines[i] = joblog.Line{Number: l.Number, Time: l.GetTime().AsTime(), Level: l.Level, Text: l.Text, Dropped: l.Dropped}
	}
	id := strings.TrimPrefix(h.Lease.Job, jobPrefix)
	if err := s.logs.Append(id, h.Lease.Epoch, lines); err != nil {
		s.log.Warn("log lines of a job are lost", "job", h.Lease.Job, "epoch", h.Lease.Epoch, "lines", len(lines), "error", err)
		return
	}
	s.logWatchers.notify(id)
	s.store.Logged(id)
}

// ReadJobLog implements LogService.
func (s *Server) ReadJobLog(req *surmisev1.ReadJobLogRequest, stream grpc.ServerStreamingServer[surmisev1.ReadJobLogResponse]) error {
	s.observer.Watching(1)
	defer s.observer.Watching(-1)
	ctx := stream.Context()
	id := strings.TrimPrefix(req.Name, jobPrefix)
	lines, forgetLines := s.logWatchers.add(id) // before the first read, so that nothing falls between
	defer forgetLines()
	changes, forgetChanges := s.watchers.add(id)
	defer forgetChanges()

	send, failed := sender(s, stream)
	defer close(send)
	pass := func(r *surmisev1.ReadJobLogResponse) error {
		return sendOrDrop(ctx, s, send, failed, r, "no line", "read again after the last line")
	}
	epoch, after := max(1, req.Epoch), req.After
	reader := s.logs.Read(id, epoch, after)
	defer func() { _ = reader.Close() }()
	for {
		// What was logged before the job ended is on disk before it is stored as ended.
		job, err := s.store.Get(ctx, id)
		if err != nil {
			return jobStatus(req.Name, err)
		}
		for {
			if err := passLines(reader, epoch, pass); err != nil {
				return statusOf(err)
			}
			if epoch >= job.Epoch {
				break
			}
			// A newer attempt was given out before the lines were read: nothing more comes from this one.
			if ctx.Err() != nil {
				return statusOf(ctx.Err())
			}
			_ = reader.Close()
			epoch++
			reader = s.logs.Read(id, epoch, 0)
		}
		if !req.Follow || job.State.Ended() {
			return pass(nil) // the sender has taken the last lines; it must be through with them
		}
		select {
		case <-lines:
		case <-changes:
		case <-ctx.Done():
			return statusOf(context.Cause(ctx))
		case <-s.stopping:
			return status.Error(codes.Unavailable, "the coordinator stops; read again after the last line")
		}
	}
}

// passLines passes on what an attempt has logged since the last time, some lines at a time.
func passLines(reader *joblog.Reader, epoch int64, pass func(*surmisev1.ReadJobLogResponse) error) error {
	batch := &surmisev1.ReadJobLogResponse{Epoch: epoch}
	size := 0
	err := reader.Next(func(l joblog.Line) error {
		batch.Lines = append(batch.Lines, &surmisev1.LogLine{
			Number: l.Number, Time: timestamppb.New(l.Time), Level: l.Level, Text: l.Text, Dropped: l.Dropped})
		if size += len(l.Text); size < logBatch {
			return nil
		}
		full := batch
		batch, size = &surmisev1.ReadJobLogResponse{Epoch: epoch}, 0
		return pass(full)
	})
	if err != nil || len(batch.Lines) == 0 {
		return err
	}
	return pass(batch)
}
