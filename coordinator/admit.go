package coordinator

import (
	"context"
	"net"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/surmise-ml/surmise/coordinator/auth"
)

// admit stands before every call: how often may this caller call, who is it, and may it call this. What it refuses for
// the rate is neither logged above debug nor audited, so that a flood fills no disk.
func (s *Server) admit(ctx context.Context, method string) (context.Context, error) {
	from := peerAddr(ctx)
	rule := auth.RuleOf(method)
	caller, err := s.auth.Identify(ctx)
	if err != nil && rule.Open {
		caller, err = auth.Identity{}, nil
	}
	if limited := s.rates.admit(callerKey(caller, from), s.clock.Now()); limited != nil {
		return ctx, limited
	}
	if err == nil && s.auth != nil {
		err = auth.Allow(method, caller)
	}
	if err == nil && rule.Changes {
		err = s.audit.ready(s.clock.Now())
	}
	if err != nil {
		s.audit.call(s.clock.Now(), caller, from, method, "", err)
		return ctx, err
	}
	return auth.NewContext(ctx, caller), nil
}

func (s *Server) admitUnary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := s.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	response, err := handler(ctx, request)
	if auth.RuleOf(info.FullMethod).Changes {
		s.audit.call(s.clock.Now(), auth.FromContext(ctx), peerAddr(ctx), info.FullMethod, jobOf(response, request), err)
	}
	return response, err
}

func (s *Server) admitStream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := s.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	caller, from := auth.FromContext(ctx), peerAddr(ctx)
	admitted := &admittedStream{ServerStream: stream, s: s, ctx: ctx, messages: s.rates.bucket(), open: auth.RuleOf(info.FullMethod).Open}
	err = handler(server, admitted)
	if auth.RuleOf(info.FullMethod).Changes {
		s.audit.call(s.clock.Now(), caller, from, info.FullMethod, "", err)
	}
	return err
}

// admittedStream lives as long as its caller may call: a token that expires or is revoked ends it with the next message.
type admittedStream struct {
	grpc.ServerStream
	s        *Server
	ctx      context.Context
	messages *rate.Limiter // of what is received; nil: no limit
	open     bool          // anyone may call
}

func (a *admittedStream) Context() context.Context { return a.ctx }

func (a *admittedStream) still() error {
	if a.open {
		return nil
	}
	_, err := a.s.auth.Identify(a.ctx)
	return err
}

func (a *admittedStream) SendMsg(m any) error {
	if err := a.still(); err != nil {
		return err
	}
	return a.ServerStream.SendMsg(m)
}

// RecvMsg takes messages no faster than the rate; the sender waits meanwhile, as for any slow reader. Each stream has the
// rate to itself: workers often share a token, and must not keep each other, or whoever else has it, from calling.
func (a *admittedStream) RecvMsg(m any) error {
	if a.messages != nil {
		now := a.s.clock.Now()
		if wait := a.messages.ReserveN(now, 1).DelayFrom(now); wait > 0 {
			select {
			case <-a.s.clock.After(wait):
			case <-a.ctx.Done():
				return statusOf(a.ctx.Err())
			}
		}
	}
	if err := a.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return a.still()
}

// peerAddr is where a call comes from; nil when not known.
func peerAddr(ctx context.Context) net.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr
	}
	return nil
}

// jobOf is the job that a call is about: as answered, or else as asked for.
func jobOf(response, request any) string {
	for _, m := range []any{response, request} {
		if named, ok := m.(interface{ GetName() string }); ok && named.GetName() != "" {
			return named.GetName()
		}
	}
	return ""
}
