package dial

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
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
		"dns://10.1.1.1/localhost:1": false, "": false, "127.0.0.1": false,
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
		"tls-ca":        {CA: bad},
		"tls-cert":      {Cert: bad},
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
