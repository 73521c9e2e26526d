package coordinator

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// TimeHeader is in the header of every answer to a single call: the time on the coordinator's machine, RFC 3339 with
// nanoseconds. Callers measure by it how far their clock is off.
const TimeHeader = "surmise-time"

func tellTime(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	// An error would mean that the header is sent, and nothing before this sends it.
	_ = grpc.SetHeader(ctx, metadata.Pairs(TimeHeader, time.Now().UTC().Format(time.RFC3339Nano)))
	return handler(ctx, request)
}
