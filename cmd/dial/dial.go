// Package dial is how commands reach a coordinator: its address, TLS and the caller's token.
package dial

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/surmise-ml/surmise/coordinator/auth"
	"github.com/surmise-ml/surmise/internal/bounded"
)

// TokenVariable is the environment variable that holds a token where no file is named. There is no flag for the token
// itself: command lines are seen by everyone on the machine and kept by shells.
const TokenVariable = "SURMISE_TOKEN"

// Options says where a coordinator is and what the caller shows it.
type Options struct {
	Address string // host:port, or another target of gRPC

	TLS        bool   // verified by the system's authorities
	CA         string // file of authorities, in place of the system's; means TLS
	ServerName string // expected in the certificate, in place of the host; means TLS
	Cert, Key  string // files of the certificate that the caller shows; mean TLS

	TokenFile string // "": the token of TokenVariable, if that is set

	// Through makes the connections, to a coordinator in this process that asks for nothing else; nil: the network does.
	Through func(context.Context, string) (net.Conn, error)
}

// Flags adds the flags for all but the address.
func (o *Options) Flags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.TLS, "tls", false, "use TLS, verified by the system's authorities")
	flags.StringVar(&o.CA, "tls-ca", "", "use TLS, verified by the authorities in this PEM file")
	flags.StringVar(&o.ServerName, "tls-server-name", "", "use TLS and expect this name in the coordinator's certificate (default its host)")
	flags.StringVar(&o.Cert, "tls-cert", "", "certificate to show to the coordinator, a PEM file; needs --tls-key")
	flags.StringVar(&o.Key, "tls-key", "", "key of --tls-cert, a PEM file")
	flags.StringVar(&o.TokenFile, "token-file", "", "file that holds the bearer token (default the token in "+TokenVariable+", if set)")
}

// A FlagError is an option that cannot be.
type FlagError struct {
	Flag  string // such as "tls-ca"
	Value string
	Err   error
}

func (e *FlagError) Error() string { return fmt.Sprintf("--%s %q: %v", e.Flag, e.Value, e.Err) }
func (e *FlagError) Unwrap() error { return e.Err }

// Secure says whether TLS is asked for, by any of its options.
func (o Options) Secure() bool {
	return o.TLS || o.CA != "" || o.ServerName != "" || o.Cert != "" || o.Key != ""
}

// DialOptions are those for grpc.NewClient. Files of certificates are read now; the token's file is read at every call,
// so that a new token is used without a restart.
func (o Options) DialOptions() ([]grpc.DialOption, error) {
	transport := insecure.NewCredentials()
	if o.Through != nil {
		return []grpc.DialOption{grpc.WithTransportCredentials(transport), grpc.WithContextDialer(o.Through)}, nil
	}
	if err := checkAddress(o.Address, o.Secure()); err != nil {
		return nil, &FlagError{"coordinator", o.Address, err}
	}
	secure := o.Secure()
	if secure {
		config, err := o.tlsConfig()
		if err != nil {
			return nil, err
		}
		transport = credentials.NewTLS(config)
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(transport)}
	token, err := o.token()
	if err != nil || token == nil {
		return options, err
	}
	if !secure && !onThisMachine(o.Address) {
		return nil, &FlagError{"coordinator", o.Address, errors.New("a token is sent over TLS only, or to this machine: give --tls or --tls-ca")}
	}
	return append(options, grpc.WithPerRPCCredentials(bearer{token, secure})), nil
}

func (o Options) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: o.ServerName}
	if o.CA != "" {
		pool, err := auth.ReadPool(o.CA)
		if err != nil {
			return nil, &FlagError{"tls-ca", o.CA, err}
		}
		config.RootCAs = pool
	}
	if (o.Cert == "") != (o.Key == "") {
		return nil, &FlagError{"tls-cert", o.Cert, fmt.Errorf("goes with --tls-key, got %q", o.Key)}
	}
	if o.Cert != "" {
		pair, err := auth.ReadKeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, &FlagError{"tls-cert", o.Cert, err}
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// validToken is what may stand in a header. Errors do not show what was found instead.
var validToken = regexp.MustCompile(`^[!-~]{1,256}$`)

// token is what reads the caller's token; nil without one.
func (o Options) token() (func() (string, error), error) {
	if o.TokenFile == "" {
		token := strings.TrimSpace(os.Getenv(TokenVariable))
		if token == "" {
			return nil, nil
		}
		if !validToken.MatchString(token) {
			return nil, errors.New(TokenVariable + " holds no token: want at most 256 printable characters")
		}
		return func() (string, error) { return token, nil }, nil
	}
	read := func() (string, error) {
		text, err := bounded.ReadFile(o.TokenFile, 1024)
		if err == nil && !validToken.MatchString(strings.TrimSpace(string(text))) {
			err = errors.New("holds no token: want at most 256 printable characters")
		}
		if err != nil {
			return "", &FlagError{"token-file", o.TokenFile, err}
		}
		return strings.TrimSpace(string(text)), nil
	}
	_, err := read()
	return read, err
}

// bearer sends a token with every call.
type bearer struct {
	token  func() (string, error)
	secure bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := b.token()
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return b.secure }

// onThisMachine reports whether what is sent to the address stays here. A name other than localhost may lead anywhere.
func onThisMachine(address string) bool {
	if strings.HasPrefix(address, "unix:") || strings.HasPrefix(address, "unix-abstract:") {
		return true
	}
	for _, scheme := range []string{"dns:///", "dns:", "passthrough:///"} {
		if rest, ok := strings.CutPrefix(address, scheme); ok {
			address = rest
			break
		}
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
