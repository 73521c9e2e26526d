package coordinatorcmd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/surmise-ml/surmise/coordinator"
	"github.com/surmise-ml/surmise/coordinator/auth"
	"github.com/surmise-ml/surmise/coordinator/queue"
)

// SecurityOptions says who may call a coordinator and how much. The zero value: anyone who reaches the port may do
// anything, and only this machine reaches it.
type SecurityOptions struct {
	TLS            auth.TLSFiles // Cert and Key empty: plaintext
	TokensFile     string        // "": no tokens
	InsecureListen bool          // allow addresses beyond loopback without TLS, or without anything that tells callers apart

	AuditFile  string // "": no audit log
	AuditBytes int64  // of a file; 0: coordinator.DefaultAuditBytes
	AuditKeep  int    // full files; 0: coordinator.DefaultAuditKeep

	Limits coordinator.Limits
	// MaxPriority is the highest priority that callers may ask for, by role or "owner/NAME".
	MaxPriority map[string]int
}

const ownerPrefix = "owner/"

// Flags adds the flags of a coordinator's security.
func (o *SecurityOptions) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&o.TLS.Cert, "tls-cert", "", "serve TLS with this certificate chain, a PEM file; read again when it changes")
	flags.StringVar(&o.TLS.Key, "tls-key", "", "key of --tls-cert, a PEM file")
	flags.StringVar(&o.TLS.ClientCA, "client-ca", "", "mutual TLS: callers must show a certificate signed by an authority in this PEM file; its OU is their role, its CN the owner")
	flags.StringVar(&o.TokensFile, "tokens", "", "callers must send a bearer token of this file, which 'surmise token' makes; read again when it changes")
	flags.BoolVar(&o.InsecureListen, "insecure-listen", false, "listen beyond this machine even without TLS, tokens or client certificates: whoever reaches the port may run jobs")
	flags.StringVar(&o.AuditFile, "audit-log", "", "append a line of JSON for every change and every refused call to this file")
	flags.Int64Var(&o.AuditBytes, "audit-max-bytes", coordinator.DefaultAuditBytes, "size at which the audit log is put aside and a new one begun")
	flags.IntVar(&o.AuditKeep, "audit-keep", coordinator.DefaultAuditKeep, "audit logs put aside that are kept")
	flags.Float64Var(&o.Limits.CallsPerSecond, "max-calls-per-second", 500, "calls a second of one caller, that is, token, certificate or address, and messages a second of one stream; 0 is any number")
	flags.IntVar(&o.Limits.MessageBytes, "max-message-bytes", 4<<20, "size of one message to the coordinator")
	flags.IntVar(&o.Limits.OpenJobs, "max-open-jobs", 0, "jobs of one owner that have not ended; 0 is any number")
	flags.StringToIntVar(&o.MaxPriority, "max-priority", nil, "ROLE=N or owner/NAME=N: the highest priority that such callers may give to a job; an owner's counts before its role's; repeat for more (default any)")
}

// minMessageBytes is what a coordinator must take to be of use: what a worker says of a job, its reason and a piece of its
// log, comes up to a third of it.
const minMessageBytes = 256 << 10

// ErrInsecureListen: the address can be reached from other machines, and nothing protects it.
var ErrInsecureListen = errors.New("would be open to the network")

// check refuses what is not whole, and an address that others reach without protection. It says in the log what
// protects the coordinator.
func (o SecurityOptions) check(at net.Addr, log *slog.Logger) error {
	encrypted := o.TLS.Cert != ""
	known := o.TokensFile != "" || o.TLS.ClientCA != ""
	local := false
	if tcp, ok := at.(*net.TCPAddr); ok {
		local = tcp.IP.IsLoopback()
	}
	switch {
	case local && !known:
		log.Info("only this machine reaches the coordinator, and everyone on it may do everything; see --tokens and --client-ca", "address", at.String())
	case local || encrypted && known:
		log.Info("callers are told apart", "tls", encrypted, "tokens", o.TokensFile != "", "client_certificates", o.TLS.ClientCA != "")
	case o.InsecureListen:
		log.Warn("listening beyond this machine without protection, as --insecure-listen asks", "address", at.String(), "tls", encrypted, "callers_known", known)
	default:
		return fmt.Errorf("listening on %s: %w: give --tls-cert and --tls-key, and --tokens or --client-ca; or listen on 127.0.0.1; or --insecure-listen where something else protects it", at, ErrInsecureListen)
	}
	return nil
}

func (o SecurityOptions) complete() error {
	switch {
	case (o.TLS.Cert == "") != (o.TLS.Key == ""):
		return fmt.Errorf("--tls-cert %q goes with --tls-key, got %q", o.TLS.Cert, o.TLS.Key)
	case o.TLS.ClientCA != "" && o.TLS.Cert == "":
		return fmt.Errorf("--client-ca %q needs --tls-cert and --tls-key", o.TLS.ClientCA)
	}
	for flag, value := range map[string]float64{"max-calls-per-second": o.Limits.CallsPerSecond, "max-message-bytes": float64(o.Limits.MessageBytes), "max-open-jobs": float64(o.Limits.OpenJobs)} {
		if !(value >= 0) || math.IsInf(value, 1) {
			return fmt.Errorf("--%s %g: want 0 or more", flag, value)
		}
	}
	if n := o.Limits.MessageBytes; n > 0 && n < minMessageBytes {
		return fmt.Errorf("--max-message-bytes %d: want at least %d, which workers need to report, or 0 for the default", n, minMessageBytes)
	}
	if _, err := o.priorities(); err != nil {
		return err
	}
	if len(o.MaxPriority) > 0 && o.TokensFile == "" && o.TLS.ClientCA == "" {
		return errors.New("--max-priority needs --tokens or --client-ca, which tell callers apart")
	}
	return nil
}

// priorities are what --max-priority means.
func (o SecurityOptions) priorities() (limits coordinator.PriorityLimits, err error) {
	limits = coordinator.PriorityLimits{Owners: map[string]int{}, Roles: map[auth.Role]int{}}
	for who, most := range o.MaxPriority {
		owner, isOwner := strings.CutPrefix(who, ownerPrefix)
		if isOwner {
			limits.Owners[owner] = most
			err = auth.CheckOwner(owner)
		} else {
			limits.Roles[auth.Role(who)] = most
			_, err = auth.ParseRole(who)
		}
		if err == nil && (most < -queue.MaxPriority || most > queue.MaxPriority) {
			err = fmt.Errorf("want %d to %d", -queue.MaxPriority, queue.MaxPriority)
		}
		if err != nil {
			return limits, fmt.Errorf("--max-priority %s=%d: %w", who, most, err)
		}
	}
	return limits, nil
}

// secure fills in who may call a coordinator, and how much.
func (o SecurityOptions) secure(cfg *coordinator.Config, log *slog.Logger) (err error) {
	cfg.Limits = o.Limits
	if cfg.Limits.Priority, err = o.priorities(); err != nil {
		return err
	}
	if cfg.TLS, err = o.tlsConfig(log); err != nil {
		return err
	}
	if o.TokensFile != "" || o.TLS.ClientCA != "" {
		cfg.Auth = &auth.Authenticator{Certificates: o.TLS.ClientCA != ""}
	}
	if o.TokensFile != "" {
		if cfg.Auth.Tokens, err = auth.OpenTokens(o.TokensFile, time.Now, log); err != nil {
			return fmt.Errorf("--tokens: %w", err)
		}
	}
	return nil
}

// audit opens the audit log, which may lie in the data folder. closed must be called when the coordinator has ended.
func (o SecurityOptions) audit(cfg *coordinator.Config) (closed func() error, err error) {
	if o.AuditFile == "" {
		return func() error { return nil }, nil
	}
	audit, err := coordinator.OpenAuditFile(o.AuditFile, o.AuditBytes, o.AuditKeep)
	if err != nil {
		return nil, err
	}
	cfg.Audit = audit
	return audit.Close, nil
}

func (o SecurityOptions) tlsConfig(log *slog.Logger) (*tls.Config, error) {
	if o.TLS.Cert == "" {
		return nil, nil
	}
	return auth.ServerTLS(o.TLS, log)
}
