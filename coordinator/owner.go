package coordinator

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	"github.com/surmise-ml/surmise/coordinator/auth"
	"github.com/surmise-ml/surmise/coordinator/queue"
)

// requestID keeps the request ids of owners apart. "/" stands in none of them.
func requestID(ctx context.Context, id string) string {
	if owner := auth.FromContext(ctx).Owner; owner != "" && id != "" {
		return owner + "/" + id
	}
	return id
}

// mayChange refuses a caller that does not own what it names.
func mayChange(ctx context.Context, name, owner string) error {
	caller := auth.FromContext(ctx)
	if caller.MayChange(owner) {
		return nil
	}
	return auth.Refusal(codes.PermissionDenied, ReasonNotOwner,
		fmt.Sprintf("%s belongs to %q, and %s %q may change only what is its own", name, owner, caller.Role, caller.Owner))
}

// submitStatus is statusOf for what keeps a submission from being stored.
func submitStatus(err error) error {
	if errors.Is(err, queue.ErrTooManyOpen) {
		return auth.Refusal(codes.ResourceExhausted, ReasonOpenJobs, err.Error(),
			&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: "open jobs of the owner", Description: err.Error()}}})
	}
	return statusOf(err)
}
