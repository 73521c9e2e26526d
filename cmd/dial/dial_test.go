package dial

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const secret = "surmise_abcdefghij_ABCDEFGHIJKLMNOPQRSTUVWXYZ"

func TestTokensGoOverTLSOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for address, sent := range map[string]bool{
		"127.0.0.1:7433": true, "localhost:7433": true, "[::1]:7433": true, "dns:///localhost:1": true, "unix:/run/x": true,
		"10.0.0.1:7433": false, "0.0.0.0:7433": false, "localhost.example.org:7433": false, "dns:///127.example:1": false,
		"dns://10.1.1.1/localhost:1": false,
	} {
		_, err := Options{Address: address, TokenFile: file}.DialOptions()
		if sent != (err == nil) {
			t.Errorf("in plaintext to %q: %v", address, err)
		}
		if _, err := (Options{Address: address, TokenFile: file, TLS: true}).DialOptions(); err != nil {
			t.Errorf("over TLS to %q: %v", address, err)
		}
		if _, err := (Options{Address: address}).DialOptions(); err != nil {
			t.Errorf("without a token to %q: %v", address, err)
		}
	}
}

func TestTokenFileIsReadAtEveryCall(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	token, err := Options{TokenFile: file}.token()
	if err != nil {
		t.Fatal(err)
	}
	b := bearer{token, true}
	for _, want := range []string{"one", "two"} {
		write(want + "\n")
		if got, err := b.GetRequestMetadata(t.Context()); err != nil || got["authorization"] != "Bearer "+want {
			t.Errorf("got %v, %v", got, err)
		}
	}
	if !b.RequireTransportSecurity() {
		t.Error("goes without TLS")
	}
	write("")
	if _, err := b.GetRequestMetadata(t.Context()); err == nil {
		t.Error("an empty file is taken")
	}
}

func TestFaultsShowNoToken(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte(secret+" "+secret), 0o600); err != nil {
		t.Fatal(err)
	}
	faults := map[string]Options{
		"token-file":    {Address: "localhost:1", TokenFile: bad},
		"tls-ca":        {Address: "localhost:1", CA: bad},
		"tls-cert":      {Address: "localhost:1", Cert: bad},
		TokenVariable:   {Address: "localhost:1"},
		"--coordinator": {Address: "example.org:1", TokenFile: filepath.Join(dir, "good")},
	}
	if err := os.WriteFile(filepath.Join(dir, "good"), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(TokenVariable, secret+" "+secret)
	for want, o := range faults {
		_, err := o.DialOptions()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("got %v, want %s named and no token", err, want)
		}
	}
}

func TestNoTokenNoCredentials(t *testing.T) {
	t.Setenv(TokenVariable, "")
	options, err := Options{Address: "example.org:1"}.DialOptions()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("example.org:1", options...)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestWhatIsNoAddress(t *testing.T) {
	for address, want := range map[string]string{
		"": "HOST:PORT", "coordinator": "HOST:PORT", "127.0.0.1": "HOST:PORT", "host:": "HOST:PORT", "::1": "HOST:PORT",
		"http://127.0.0.1:7433": "without http://", "https://lab:7433": "--tls",
	} {
		_, err := Options{Address: address}.DialOptions()
		if flag := (*FlagError)(nil); !errors.As(err, &flag) || flag.Flag != "coordinator" || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", address, err, want)
		}
	}
}

func TestWhatIsAnAddress(t *testing.T) {
	for _, o := range []Options{{Address: ":7433"}, {Address: "DNS:///lab:1"}, {Address: "lab.example.org", TLS: true}, {Address: "[::1]:7433"}} {
		if _, err := o.DialOptions(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// What went wrong with a connection is told by what to do about it, and what a coordinator answers stays as it is.
func TestExplain(t *testing.T) {
	lost := func(text string) error { return status.Error(codes.Unavailable, `connection error: desc = "`+text+`"`) }
	plain, secure, shown := Options{Address: "lab:1"}, Options{Address: "lab:1", TLS: true}, Options{Address: "lab:1", Cert: "c", Key: "k"}
	for _, c := range []struct {
		o    Options
		err  error
		want string // "": as it was
	}{
		{plain, lost("transport: Error while dialing: dial tcp: connect: connection refused"), "no coordinator answers at lab:1"},
		{plain, lost("error reading server preface: EOF"), "--tls"},
		{secure, lost("transport: authentication handshake failed: tls: first record does not look like a TLS handshake"), "without TLS"},
		{secure, lost("transport: authentication handshake failed: tls: failed to verify certificate: x509: certificate signed by unknown authority"), "--tls-ca"},
		{secure, lost("error reading server preface: remote error: tls: certificate required"), "it may want a certificate"},
		{shown, lost("error reading server preface: remote error: tls: expired certificate"), "does not take the certificate of --tls-cert"},
		{shown, lost("error reading server preface: remote error: tls: certificate required"), "does not take the certificate of --tls-cert"},
		{shown, lost("transport: Error while dialing: dial tcp: connect: connection reset by peer"), "no coordinator answers at lab:1"},
		{shown, status.Error(codes.Unavailable, "error reading from server: read tcp: connection reset by peer"), "no coordinator answers at lab:1"},
		{plain, status.Error(codes.Unavailable, "storing the job: committing: database or disk is full (13)"), ""},
		{plain, status.Error(codes.Unavailable, "listing jobs: failed to connect to the database"), ""},
		{plain, status.Error(codes.NotFound, "job jobs/x: not found"), ""},
		{plain, status.Error(codes.Unauthenticated, `this coordinator wants metadata "authorization: Bearer TOKEN"`), "--token-file"},
	} {
		got := c.o.Explain(c.err)
		if c.want == "" && got.Error() != c.err.Error() || !strings.Contains(got.Error(), c.want) || !errors.Is(got, c.err) || status.Code(got) != status.Code(c.err) {
			t.Errorf("%v becomes %v, want %q in it", c.err, got, c.want)
		}
		if silent := (*SilentError)(nil); errors.As(got, &silent) != strings.HasPrefix(c.want, "no coordinator") {
			t.Errorf("%v: silent or not", got)
		}
	}
	if err := plain.Explain(nil); err != nil {
		t.Error(err)
	}
}
