package coordinator

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec beneath
	"google.golang.org/grpc/mem"

	"github.com/surmise-ml/surmise/proto/jobspec"
)

// requestCodec reads messages as gRPC's own codec does, but keeps the error of one that is no message until the
// interceptors ask for it: gRPC would call it INTERNAL, and it is the caller's fault.
type requestCodec struct {
	encoding.CodecV2
	malformed sync.Map // of error, by the message that could not be read
}

func newRequestCodec() *requestCodec {
	return &requestCodec{CodecV2: encoding.GetCodecV2("proto")}
}

func (c *requestCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if err := c.CodecV2.Unmarshal(data, v); err != nil {
		c.malformed.Store(v, err)
	}
	return nil
}

// fault is what was wrong with the bytes of a message. Each message must be asked about once.
func (c *requestCodec) fault(message any) error {
	err, bad := c.malformed.LoadAndDelete(message)
	if !bad {
		return nil
	}
	return badRequest(jobspec.FieldError{Field: "(message)", Problem: "cannot be read: " + err.(error).Error()})
}

// readUnary and readStream come before any interceptor that looks at a request.
func (c *requestCodec) readUnary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := c.fault(request); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

func (c *requestCodec) readStream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(server, readableStream{stream, c})
}

type readableStream struct {
	grpc.ServerStream
	codec *requestCodec
}

func (s readableStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.codec.fault(m)
}
