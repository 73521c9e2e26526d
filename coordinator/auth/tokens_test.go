package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// reason is that of a refusal, which must have this code.
func reason(t *testing.T, err error, code codes.Code) string {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code {
		t.Fatalf("got %v, want %s", err, code)
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == Domain {
			return info.Reason
		}
	}
	t.Fatalf("%v has no ErrorInfo", err)
	return ""
}

func newToken(t *testing.T, path string, role Role, owner string) (secret string, token Token) {
	t.Helper()
	secret, token, err := NewToken(role, owner, epoch, epoch.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := AddToken(path, token); err != nil {
		t.Fatal(err)
	}
	return secret, token
}

func TestTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	alice, kept := newToken(t, path, Submitter, "alice")
	now := epoch
	var logged bytes.Buffer
	tokens, err := OpenTokens(path, func() time.Time { return now }, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	a := &Authenticator{Tokens: tokens}
	call := func(authorization ...string) (Identity, error) {
		return a.Identify(metadata.NewIncomingContext(t.Context(), metadata.MD{"authorization": authorization}))
	}

	got, err := call("Bearer " + alice)
	if want := (Identity{ID: "token/" + kept.ID, Role: Submitter, Owner: "alice"}); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), alice) || strings.Contains(string(text), alice[len(alice)-26:]) {
		t.Errorf("the file holds the secret, or %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}

	other, _ := newToken(t, filepath.Join(t.TempDir(), "others.json"), Admin, "mallory")
	for name, c := range map[string]struct {
		authorization []string
		want          string
	}{
		"none":            {nil, ReasonNoCredentials},
		"empty":           {[]string{""}, ReasonTokenUnknown},
		"another scheme":  {[]string{"Basic " + alice}, ReasonTokenUnknown},
		"two":             {[]string{"Bearer " + alice, "Bearer " + alice}, ReasonTokenUnknown},
		"of another file": {[]string{"Bearer " + other}, ReasonTokenUnknown},
		"cut short":       {[]string{"Bearer " + alice[:len(alice)-1]}, ReasonTokenUnknown},
		"another secret":  {[]string{"Bearer surmise_" + kept.ID + "_AAAAAAAAAAAAAAAAAAAAAAAAAA"}, ReasonTokenUnknown},
		"the hash":        {[]string{"Bearer " + kept.Hash}, ReasonTokenUnknown},
		"long":            {[]string{"Bearer " + strings.Repeat("x", 1<<20)}, ReasonTokenUnknown},
	} {
		_, err := call(c.authorization...)
		if got := reason(t, err, codes.Unauthenticated); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if strings.Contains(err.Error(), alice[len(alice)-20:]) {
			t.Errorf("%s: the error shows the token: %v", name, err)
		}
	}

	// Changes count at the next call.
	if err := RevokeToken(path, kept.ID, epoch); err != nil {
		t.Fatal(err)
	}
	bob, _ := newToken(t, path, Worker, "bob")
	_, err = call("Bearer " + alice)
	if got := reason(t, err, codes.Unauthenticated); got != ReasonTokenRevoked {
		t.Errorf("revoked: %s", got)
	}
	if got, err := call("Bearer " + bob); err != nil || got.Role != Worker {
		t.Errorf("a new token: %v, %v", got, err)
	}

	// A broken file keeps the old tokens and is logged once.
	if err := os.WriteFile(path, []byte(`{"version":1,"tokens":[{"id":"x"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := call("Bearer " + bob); err != nil {
			t.Errorf("with a broken file: %v", err)
		}
	}
	if n := strings.Count(logged.String(), "stays in force"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, &logged)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := call("Bearer " + bob); err != nil {
		t.Errorf("without the file: %v", err)
	}

	now = epoch.Add(time.Hour)
	_, err = call("Bearer " + bob)
	if got := reason(t, err, codes.Unauthenticated); got != ReasonTokenExpired {
		t.Errorf("at its end: %s", got)
	}
	if strings.Contains(logged.String(), "surmise_") {
		t.Errorf("the log shows a token:\n%s", &logged)
	}
}

func TestChangingTokensAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			_, token, err := NewToken(Viewer, "v", epoch, epoch.Add(time.Hour))
			if err := errors.Join(err, AddToken(path, token)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if tokens, err := ReadTokens(path); err != nil || len(tokens) != 16 {
		t.Errorf("%d tokens, %v, want 16", len(tokens), err)
	}
	if err := RevokeToken(path, "aaaaaaaaaa", epoch); err == nil || !strings.Contains(err.Error(), "aaaaaaaaaa") {
		t.Errorf("revoking an unknown token: %v", err)
	}
}

func TestNewTokenFaults(t *testing.T) {
	for _, c := range []struct {
		role    Role
		owner   string
		expires time.Time
		want    string
	}{
		{"root", "a", epoch.Add(1), `role "root"`},
		{Viewer, "", epoch.Add(1), `owner ""`},
		{Viewer, "a\nb", epoch.Add(1), `owner "a\nb"`},
		{Viewer, "a", epoch, "expires"},
	} {
		if _, _, err := NewToken(c.role, c.owner, epoch, c.expires); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %s", c, err, c.want)
		}
	}
}

// Whatever a tokens file holds, it is read or refused, and what is read is what is written.
func FuzzTokensFile(f *testing.F) {
	_, token, err := NewToken(Admin, "root", epoch, epoch.Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(tokensFile{1, []Token{token}})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(good), `{"version":1}`, `{"version":2,"tokens":[]}`, `{"version":1,"tokens":[{"id":"a","reovked":1}]}`, `[]`, ``,
		strings.Replace(string(good), `"role":"admin"`, `"role":"ADMIN"`, 1)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		tokens, err := parseTokens(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(tokensFile{1, tokens})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseTokens(again); err != nil {
			t.Errorf("%s became %s: %v", text, again, err)
		}
	})
}
