// Package auth says who calls a coordinator and what they may do.
//
// A caller is known by a bearer token (tokens.go) or by the certificate it shows in mutual TLS (tls.go). Either names a
// role and an owner. What a role may do stands in one table (methods.go); what an owner may do to a job is for the
// coordinator, which knows the jobs. Files are read again when they change, at the next call or handshake, so what is
// revoked is refused at once.
package auth

import (
	"context"
	"fmt"
	"regexp"
	"slices"
)

// Role says what a caller may do.
type Role string

const (
	Viewer    Role = "viewer"    // reads everything
	Submitter Role = "submitter" // reads everything, changes the jobs of its owner
	Worker    Role = "worker"    // attaches and works, and does nothing else
	Admin     Role = "admin"     // everything
)

// Roles are all roles.
var Roles = []Role{Viewer, Submitter, Worker, Admin}

// ParseRole reads a role's name.
func ParseRole(name string) (Role, error) {
	if r := Role(name); slices.Contains(Roles, r) {
		return r, nil
	}
	return "", fmt.Errorf("role %q: want viewer, submitter, worker or admin", name)
}

var validOwner = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$`)

// CheckOwner refuses a name that no owner can have: it stands in logs, files and certificates.
func CheckOwner(owner string) error {
	if !validOwner.MatchString(owner) {
		return fmt.Errorf("owner %q: want 1 to 128 letters, digits and _ . @ -, the first a letter or digit", owner)
	}
	return nil
}

// Identity is a caller. It holds nothing secret.
type Identity struct {
	ID    string // such as "token/4f3k2a…" or "certificate/alice", for logs
	Role  Role
	Owner string // whose jobs it submits and changes; empty for Anonymous
}

// Anonymous is every caller of a coordinator that knows no tokens and no certificates.
var Anonymous = Identity{ID: "anonymous", Role: Admin}

// MayChange reports whether the caller may change what belongs to owner.
func (i Identity) MayChange(owner string) bool {
	return i.Role == Admin || i.Role == Submitter && i.Owner != "" && i.Owner == owner
}

type contextKey struct{}

// NewContext carries a caller.
func NewContext(ctx context.Context, i Identity) context.Context {
	return context.WithValue(ctx, contextKey{}, i)
}

// FromContext is the caller that a context carries. Without one the caller is nobody, who may do nothing.
func FromContext(ctx context.Context) Identity {
	i, _ := ctx.Value(contextKey{}).(Identity)
	return i
}
