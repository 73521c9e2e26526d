package auth

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// An end that comes near is told of every day, though the file never changes.
func TestCertificatesThatEnd(t *testing.T) {
	var said bytes.Buffer
	w := &endWarning{log: slog.New(slog.NewTextHandler(&said, nil)), path: "server.pem"}
	end := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	leaf := &x509.Certificate{NotBefore: end.AddDate(-1, 0, 0), NotAfter: end}
	for _, c := range []struct {
		before time.Duration
		want   string // "": nothing
	}{
		{15 * 24 * time.Hour, ""}, {13 * 24 * time.Hour, "expires soon"}, {13*24*time.Hour - time.Hour, ""}, {12 * 24 * time.Hour, "expires soon"},
		{time.Minute, "expires soon"}, {-time.Hour, "has expired"}, {-2 * time.Hour, ""}, {-26 * time.Hour, "has expired"},
	} {
		said.Reset()
		w.check(leaf, end.Add(-c.before))
		if got := said.String(); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%v before the end it says %q, want %q", c.before, got, c.want)
		}
	}
	said.Reset()
	(&endWarning{log: w.log, path: w.path}).check(leaf, leaf.NotBefore.Add(-time.Hour))
	if !strings.Contains(said.String(), "not valid yet") {
		t.Errorf("before it begins it says %q", said.String())
	}
}
