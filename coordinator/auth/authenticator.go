package auth

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
)

// Domain is that of the google.rpc.ErrorInfo in refusals.
const Domain = "surmise"

// Reasons of refusals; docs/guides/security.md lists them all with their codes.
const (
	ReasonNoCredentials  = "CREDENTIALS_MISSING"
	ReasonTokenUnknown   = "TOKEN_UNKNOWN"
	ReasonTokenExpired   = "TOKEN_EXPIRED"
	ReasonTokenRevoked   = "TOKEN_REVOKED"
	ReasonCertificate    = "CERTIFICATE_NAMES_NO_ROLE"
	ReasonRoleNotAllowed = "ROLE_NOT_ALLOWED"
)

// Refusal is a status with a google.rpc.ErrorInfo that has this reason, so that programs can tell refusals of one code
// apart.
func Refusal(code codes.Code, reason, message string, more ...protoadapt.MessageV1) error {
	st := status.New(code, message)
	details := append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: Domain}}, more...)
	if detailed, err := st.WithDetails(details...); err == nil {
		st = detailed
	}
	return st.Err()
}

var (
	errTokenUnknown = Refusal(codes.Unauthenticated, ReasonTokenUnknown, "the bearer token is not known here")
	errTokenExpired = Refusal(codes.Unauthenticated, ReasonTokenExpired, "the bearer token has expired; ask for a new one")
	errTokenRevoked = Refusal(codes.Unauthenticated, ReasonTokenRevoked, "the bearer token was revoked; ask for a new one")
)

// Authenticator knows callers. A nil one takes every caller for Anonymous.
type Authenticator struct {
	Tokens       *Tokens // nil: no token is accepted
	Certificates bool    // a verified client certificate names a role; see certificateIdentity
}

// InProcess is the credentials.AuthInfo of a connection from the coordinator's own process.
type InProcess struct{ credentials.CommonAuthInfo }

// AuthType names it.
func (InProcess) AuthType() string { return "in-process" }

// localWorker is who comes from the coordinator's own process.
var localWorker = Identity{ID: "in-process", Role: Worker}

// Identify says who makes a call. A token counts before a certificate. The errors are statuses with code
// UNAUTHENTICATED and never hold what the caller sent.
func (a *Authenticator) Identify(ctx context.Context) (Identity, error) {
	if a == nil {
		return Anonymous, nil
	}
	if p, ok := peer.FromContext(ctx); ok {
		if _, local := p.AuthInfo.(InProcess); local {
			return localWorker, nil
		}
	}
	if values := metadata.ValueFromIncomingContext(ctx, "authorization"); len(values) > 0 && a.Tokens != nil {
		scheme, secret, _ := strings.Cut(values[0], " ")
		if len(values) > 1 || !strings.EqualFold(scheme, "bearer") {
			return Identity{}, Refusal(codes.Unauthenticated, ReasonTokenUnknown, `authorization: want one value, "Bearer TOKEN"`)
		}
		return a.Tokens.identify(secret)
	}
	if leaf := verifiedLeaf(ctx); leaf != nil && a.Certificates {
		return certificateIdentity(leaf)
	}
	want := "a client certificate"
	if a.Tokens != nil {
		want = `metadata "authorization: Bearer TOKEN"`
	}
	return Identity{}, Refusal(codes.Unauthenticated, ReasonNoCredentials, "this coordinator wants "+want)
}

// verifiedLeaf is the caller's certificate if it showed one that the handshake verified.
func verifiedLeaf(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil
	}
	return info.State.VerifiedChains[0][0]
}

// certificateIdentity reads a certificate's subject: exactly one organizational unit (OU) is a role, and the common name
// (CN) is the owner.
func certificateIdentity(leaf *x509.Certificate) (Identity, error) {
	refuse := func(problem string) (Identity, error) {
		return Identity{}, Refusal(codes.Unauthenticated, ReasonCertificate, "the client certificate "+problem)
	}
	var roles []Role
	for _, unit := range leaf.Subject.OrganizationalUnit {
		if r := Role(unit); slices.Contains(Roles, r) {
			roles = append(roles, r)
		}
	}
	if len(roles) != 1 {
		return refuse(fmt.Sprintf("must name one role (viewer, submitter, worker, admin) as OU, it names %d", len(roles)))
	}
	if err := CheckOwner(leaf.Subject.CommonName); err != nil {
		return refuse("names as CN: " + err.Error())
	}
	return Identity{ID: "certificate/" + leaf.Subject.CommonName, Role: roles[0], Owner: leaf.Subject.CommonName}, nil
}
