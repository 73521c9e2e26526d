package coordinatorcmd

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/coordinator/auth"
	"github.com/surmise-ml/surmise/coordinator/auth/authtest"
	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// A coordinator that others can reach wants TLS and callers that it can tell apart, or to be told otherwise.
func TestListening(t *testing.T) {
	const beyond, loopback = "0.0.0.0:0", "127.0.0.1:0"
	dir := t.TempDir()
	ca := authtest.NewAuthority(t)
	cert, key := ca.Issue(dir, "server", pkix.Name{CommonName: "coordinator"})
	clients := ca.Write(filepath.Join(dir, "ca.pem"))
	tokens := filepath.Join(dir, "tokens.json")
	secret, token, err := auth.NewToken(auth.Viewer, "v", time.Now(), time.Now().Add(time.Hour))
	if err := errors.Join(err, auth.AddToken(tokens, token)); err != nil {
		t.Fatal(err)
	}
	encrypted := auth.TLSFiles{Cert: cert, Key: key}
	for name, c := range map[string]struct {
		listen   string
		security SecurityOptions
		says     string // in the log; else in the error, beginning with "!"
	}{
		"nothing, here":                {loopback, SecurityOptions{}, "only this machine reaches the coordinator"},
		"nothing, beyond":              {beyond, SecurityOptions{}, "!would be open to the network"},
		"tokens in plaintext":          {beyond, SecurityOptions{TokensFile: tokens}, "!would be open to the network"},
		"TLS for anyone":               {beyond, SecurityOptions{TLS: encrypted}, "!would be open to the network"},
		"TLS and tokens":               {beyond, SecurityOptions{TLS: encrypted, TokensFile: tokens}, "callers are told apart"},
		"mutual TLS":                   {beyond, SecurityOptions{TLS: auth.TLSFiles{Cert: cert, Key: key, ClientCA: clients}}, "callers are told apart"},
		"tokens, here":                 {loopback, SecurityOptions{TokensFile: tokens}, "callers are told apart"},
		"as told":                      {beyond, SecurityOptions{InsecureListen: true}, "as --insecure-listen asks"},
		"a certificate alone":          {loopback, SecurityOptions{TLS: auth.TLSFiles{Cert: cert}}, "!--tls-key"},
		"client CA alone":              {loopback, SecurityOptions{TLS: auth.TLSFiles{ClientCA: clients}}, "!--client-ca"},
		"a priority for nobody known":  {loopback, SecurityOptions{MaxPriority: map[string]int{"viewer": 1}}, "!--max-priority needs --tokens"},
		"a priority of no role":        {loopback, SecurityOptions{TokensFile: tokens, MaxPriority: map[string]int{"guest": 1}}, `!--max-priority guest=1: role "guest"`},
		"a priority of no owner":       {loopback, SecurityOptions{TokensFile: tokens, MaxPriority: map[string]int{"owner/": 1}}, `!--max-priority owner/=1: owner ""`},
		"a priority that is none":      {loopback, SecurityOptions{TokensFile: tokens, MaxPriority: map[string]int{"owner/ann": 1001}}, "!want -1000 to 1000"},
		"priorities":                   {loopback, SecurityOptions{TokensFile: tokens, MaxPriority: map[string]int{"owner/ann": 5, "submitter": 0}}, "callers are told apart"},
		"no such tokens":               {loopback, SecurityOptions{TokensFile: tokens + "x"}, "!--tokens"},
		"a key that is none":           {loopback, SecurityOptions{TLS: auth.TLSFiles{Cert: cert, Key: cert}}, "!" + cert},
		"an audit log in no folder":    {loopback, SecurityOptions{AuditFile: filepath.Join(dir, "no", "log")}, "!audit log"},
		"authorities that are no such": {loopback, SecurityOptions{TLS: auth.TLSFiles{Cert: cert, Key: key, ClientCA: key}}, "!holds no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			var log bytes.Buffer
			data := filepath.Join(t.TempDir(), "state")
			err := Run(ctx, Options{
				Listen: c.listen, DataDir: data, Security: c.security, Logger: slog.New(slog.NewTextHandler(&log, nil)),
				Serving: func(net.Addr) { stop() },
			})
			if fault, ok := strings.CutPrefix(c.says, "!"); ok {
				if err == nil || !strings.Contains(err.Error(), fault) {
					t.Errorf("got %v, want %s", err, fault)
				}
				if !errors.Is(err, ErrInsecureListen) {
					return
				}
				if usage := (*UsageError)(nil); !errors.As(err, &usage) {
					t.Errorf("%v is no wrong usage", err)
				}
				if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the data folder: %v; want none", err)
				}
			} else if err != nil || !strings.Contains(log.String(), c.says) {
				t.Errorf("got %v and the log\n%s\nwant %q", err, &log, c.says)
			}
		})
	}

	// The whole way: TLS, a token in a file, a line in the audit log.
	t.Run("a call", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		audit := filepath.Join(t.TempDir(), "audit.jsonl")
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		at := make(chan net.Addr, 1)
		ended := make(chan error, 1)
		go func() {
			ended <- Run(ctx, Options{
				Listen: loopback, DataDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), Serving: func(a net.Addr) { at <- a },
				Security: SecurityOptions{TLS: encrypted, TokensFile: tokens, AuditFile: audit},
			})
		}()
		var address string
		select {
		case a := <-at:
			address = a.String()
		case err := <-ended:
			t.Fatal(err)
		}
		options, err := dial.Options{Address: address, CA: clients, TokenFile: file}.DialOptions()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient(address, options...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		jobs := surmisev1.NewJobServiceClient(conn)
		if _, err := jobs.ListJobs(ctx, &surmisev1.ListJobsRequest{}); err != nil {
			t.Error(err)
		}
		if _, err := jobs.CancelJob(ctx, &surmisev1.CancelJobRequest{Name: "jobs/x"}); err == nil {
			t.Error("a viewer cancels")
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		text, err := os.ReadFile(audit)
		if err != nil || !strings.Contains(string(text), "PERMISSION_DENIED") || strings.Contains(string(text), secret) {
			t.Errorf("the audit log says %s, %v", text, err)
		}
	})
}
