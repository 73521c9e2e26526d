package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/surmise-ml/surmise/coordinator/auth"
	"github.com/surmise-ml/surmise/coordinator/queue"
	"github.com/surmise-ml/surmise/proto/jobspec"
)

// fieldReasons are the reasons of violations that a program may want to tell from others; those of other fields have
// reasonField.
var fieldReasons = map[string]string{
	"page_token": "PAGE_TOKEN_INVALID",
	"filter":     "FILTER_INVALID",
	"state":      "FILTER_INVALID",
	"order_by":   "ORDER_INVALID",
	"(message)":  "MESSAGE_INVALID",
}

const reasonField = "FIELD_INVALID"

// maxErrorBytes is what the fields at fault of one request may take: an error travels in the headers of a call, of which most
// clients take 8 to 16 KiB and drop the connection for more.
const maxErrorBytes = 6 << 10

// What the name of one field, and its problem, may take: a field of a map is named by its key, and a problem quotes a value.
const (
	maxFieldBytes   = 128
	maxProblemBytes = 512
)

func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// headerBytes is at most what a field at fault takes in headers: it is in the message, which goes out as it is and, in the
// status, in base64, and once more in there by itself with its reason.
func headerBytes(e jobspec.FieldError) int {
	text := 0
	for _, b := range []byte(e.Field + e.Problem) {
		if text++; b < ' ' || b > '~' || b == '%' { // as %XX
			text += 2
		}
	}
	const framing, reason = 16, 32
	return text + 4*(2*(len(e.Field)+len(e.Problem))+reason+framing)/3
}

// badRequest is INVALID_ARGUMENT with a google.rpc.BadRequest that names the fields at fault, as many as fit, and the reason
// of the first as google.rpc.ErrorInfo.
func badRequest(errs ...jobspec.FieldError) error {
	size := 0
	more := ""
	errs = slices.Clone(errs)
	for i := range errs {
		errs[i].Field, errs[i].Problem = shorten(errs[i].Field, maxFieldBytes), shorten(errs[i].Problem, maxProblemBytes)
		if size += headerBytes(errs[i]); size > maxErrorBytes && i > 0 {
			more = fmt.Sprintf("; and %d more", len(errs)-i)
			errs = errs[:i]
			break
		}
	}
	details := &errdetails.BadRequest{}
	for _, e := range errs {
		reason := fieldReasons[e.Field]
		if reason == "" {
			reason = reasonField
		}
		details.FieldViolations = append(details.FieldViolations,
			&errdetails.BadRequest_FieldViolation{Field: e.Field, Description: e.Problem, Reason: reason})
	}
	reason := reasonField
	if len(errs) > 0 {
		reason = details.FieldViolations[0].Reason
	}
	return auth.Refusal(codes.InvalidArgument, reason, jobspec.Errors(errs).Error()+more, details)
}

// statusOf turns the errors of this package's inner parts into statuses. A store that fails is UNAVAILABLE: nothing was
// changed, and the same call may succeed later.
func statusOf(err error) error {
	var fields jobspec.Errors
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fields):
		return badRequest(fields...)
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unavailable, strings.ReplaceAll(err.Error(), "\n", "; ")) // those of databases take several lines
}

// jobStatus is statusOf for what a caller asked of the job "jobs/{id}".
func jobStatus(name string, err error) error {
	if errors.Is(err, queue.ErrNotFound) {
		return status.Errorf(codes.NotFound, "job %s: not found", name)
	}
	return statusOf(err)
}

// check holds a request against the rules of its .proto file.
func check(request any) error {
	m, ok := request.(proto.Message)
	if !ok {
		return nil
	}
	var fields jobspec.Errors
	err := jobspec.Validate(m)
	if err != nil && !errors.As(err, &fields) {
		return status.Errorf(codes.Internal, "checking a %s: %v", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return statusOf(err)
}

func checkUnary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := check(request); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

func checkStream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(server, checkedStream{stream})
}

type checkedStream struct{ grpc.ServerStream }

func (s checkedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return check(m)
}

func (s *Server) logUnary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	response, err := handler(ctx, request)
	s.logCall(ctx, info.FullMethod, err)
	return response, err
}

func (s *Server) logStream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	err := handler(server, stream)
	s.logCall(stream.Context(), info.FullMethod, err)
	return err
}

// logCall logs faults of ours above faults of callers.
func (s *Server) logCall(ctx context.Context, method string, err error) {
	level := slog.LevelDebug
	switch status.Code(err) {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		level = slog.LevelError
	case codes.Unavailable, codes.ResourceExhausted:
		level = slog.LevelWarn
	}
	s.log.Log(ctx, level, "call", "method", method, "code", status.Code(err).String(), "error", err)
}

func (s *Server) onPanic(ctx context.Context, p any) error {
	s.log.ErrorContext(ctx, "panic in a call", "panic", p, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "internal error; the coordinator's log says more")
}

func (s *Server) recoverUnary() grpc.UnaryServerInterceptor {
	return recovery.UnaryServerInterceptor(recovery.WithRecoveryHandlerContext(s.onPanic))
}

func (s *Server) recoverStream() grpc.StreamServerInterceptor {
	return recovery.StreamServerInterceptor(recovery.WithRecoveryHandlerContext(s.onPanic))
}
