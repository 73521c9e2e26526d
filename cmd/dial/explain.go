package dial

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A SilentError is of an address where no coordinator answers at all.
type SilentError struct {
	Address string
	Err     error
}

func (e *SilentError) Error() string {
	return fmt.Sprintf("no coordinator answers at %s (start one with 'surmise up', or name another with --coordinator): %v", e.Address, e.Err)
}
func (e *SilentError) Unwrap() error { return e.Err }

// Explain says what to do where a coordinator does not answer, or not as was expected. What it answers itself stays as it is.
func (o Options) Explain(err error) error {
	if err == nil {
		return nil
	}
	says := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(err.Error(), part) })
	}
	switch {
	case status.Code(err) == codes.Unauthenticated && says("authorization: Bearer"):
		return fmt.Errorf("a token is wanted (--token-file, or %s): %w", TokenVariable, err)
	case status.Code(err) != codes.Unavailable, !says("connection error", "error reading from server", "name resolver", "transport"):
		return err
	case says("first record does not look like a TLS handshake"):
		return fmt.Errorf("what answers at %s serves without TLS: %w", o.Address, err)
	case says("x509: certificate has expired or is not yet valid"):
		return fmt.Errorf("the certificate of %s has expired and must be renewed there, or one of the two clocks is wrong: %w", o.Address, err)
	case says("x509: "):
		return fmt.Errorf("the certificate of %s is not trusted (--tls-ca names who signed it, --tls-server-name whose it is): %w", o.Address, err)
	case o.Secure() && (says("remote error: tls: ") || says("server preface", "authentication handshake") && says("broken pipe", "reset by peer", "EOF")):
		if o.Cert == "" {
			return fmt.Errorf("%s ends the connection; it may want a certificate (--tls-cert and --tls-key): %w", o.Address, err)
		}
		return fmt.Errorf("%s does not take the certificate of --tls-cert: it may have expired, come from an authority that is not trusted there, or be no client's: %w", o.Address, err)
	case !o.Secure() && says("server preface"):
		return fmt.Errorf("what answers at %s is no coordinator, or one with TLS (--tls, or --tls-ca): %w", o.Address, err)
	}
	return &SilentError{o.Address, err}
}

// checkAddress refuses what gRPC would take for a name, or for no address at all, and try for ever. With TLS a host without
// a port is one of an ingress, at 443.
func checkAddress(address string, secure bool) error {
	for _, scheme := range []string{"dns:", "passthrough:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "vsock:", "xds:"} {
		if strings.HasPrefix(strings.ToLower(address), scheme) {
			return nil // gRPC knows these
		}
	}
	if scheme, _, ok := strings.Cut(address, "://"); ok {
		return fmt.Errorf("want HOST:PORT, without %s://; TLS is asked for with --tls", scheme)
	}
	if _, port, err := net.SplitHostPort(address); err == nil && port != "" || secure && address != "" && !strings.Contains(address, ":") {
		return nil
	}
	return errors.New("want HOST:PORT, such as 127.0.0.1:7433")
}
