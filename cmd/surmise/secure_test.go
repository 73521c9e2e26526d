package main

import (
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/surmise-ml/surmise/coordinator/auth/authtest"
	"github.com/surmise-ml/surmise/video/synth"
)

// The tokens of a file: made, listed without what is secret, and revoked.
func TestTokenCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.json")
	code, out, said := surmise(t, "", "token", "create", "--file", file, "--role", "submitter", "--owner", "ann", "--expires", "1h")
	secret := strings.TrimSpace(out)
	if code != exitOK || !strings.HasPrefix(secret, "surmise_") || strings.Contains(said, secret) || !strings.Contains(said, "of ann, submitter, until ") {
		t.Fatalf("exit code %d, %q, %q", code, out, said)
	}
	ok(t, "token", "create", "--file", file, "--role", "worker", "--owner", "lab")
	stored, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(stored), secret) {
		t.Fatalf("the file holds the token (%v):\n%s", err, stored)
	}
	type token struct{ ID, Role, Owner, State string }
	list := func() (tokens []token) {
		t.Helper()
		text := ok(t, "token", "list", "--file", file, "--json")
		if strings.Contains(text, secret) {
			t.Errorf("the list shows a token:\n%s", text)
		}
		for d := json.NewDecoder(strings.NewReader(text)); d.More(); {
			var next token
			if err := d.Decode(&next); err != nil {
				t.Fatal(err)
			}
			tokens = append(tokens, next)
		}
		return tokens
	}
	tokens := list()
	if len(tokens) != 2 || tokens[0].Owner != "ann" || tokens[0].Role != "submitter" || tokens[1].Role != "worker" || tokens[0].State != tokens[1].State {
		t.Fatalf("listed %+v", tokens)
	}
	ok(t, "token", "revoke", "--file", file, tokens[0].ID)
	if now := list(); now[0].State == tokens[0].State || now[1] != tokens[1] {
		t.Errorf("after the first was revoked: %+v", now)
	}
	if table := ok(t, "token", "list", "--file", file); strings.Count(table, "\n") != 3 || !strings.HasPrefix(table, "ID ") {
		t.Errorf("the table is\n%s", table)
	}
	if code, _, said := surmise(t, "", "token", "revoke", "--file", file, "none"); code == exitOK || !strings.Contains(said, "none") {
		t.Errorf("revoking none: exit code %d: %s", code, said)
	}
}

// One process with TLS and tokens: callers must show a token, the worker inside needs none, has the labels it was given,
// and tells MLflow of the job.
func TestUpSecured(t *testing.T) {
	dir := t.TempDir()
	made, err := synth.Generate(t.Context(), synth.Options{Dir: filepath.Join(dir, "videos"), Clips: 2, Size: 32, Frames: 16}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var runs atomic.Int64
	mlflow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/runs/create") {
			runs.Add(1)
		}
		fmt.Fprint(w, `{"experiment_id":"1","experiment":{"experiment_id":"1"},"run":{"info":{"run_id":"r"}}}`)
	}))
	defer mlflow.Close()
	ca := authtest.NewAuthority(t)
	cert, key := ca.Issue(dir, "server", pkix.Name{CommonName: "coordinator"})
	tokens, file := filepath.Join(dir, "tokens.json"), filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(ok(t, "token", "create", "--file", tokens, "--role", "submitter", "--owner", "ann")), 0o600); err != nil {
		t.Fatal(err)
	}
	up := startUp(t, "--data-dir", filepath.Join(dir, "state"), "--cache-dir", "none", "--tls-cert", cert, "--tls-key", key, "--tokens", tokens,
		"--max-priority", "submitter=0", "--label", "zone=x", "--mlflow-url", mlflow.URL)
	flags := []string{"--coordinator=" + up.address, "--tls-ca", ca.Write(filepath.Join(dir, "ca.pem"))}
	if code, _, said := surmise(t, "", append([]string{"jobs"}, flags...)...); code != exitUsage || !strings.Contains(said, "a token is wanted (--token-file, ") {
		t.Errorf("without a token: exit code %d: %s", code, said)
	}
	for want, tls := range map[string][]string{
		"one with TLS (--tls, or --tls-ca)": nil,
		"is not trusted (--tls-ca ":         {"--tls"},
	} {
		if code, _, said := surmise(t, "", append([]string{"jobs", "--coordinator=" + up.address}, tls...)...); code != exitFailed || !strings.Contains(said, want) {
			t.Errorf("%v: exit code %d: %s, want %q", tls, code, said, want)
		}
	}
	flags = append(flags, "--token-file", file)
	submit := func(priority int) (code int, said string) {
		job := fmt.Sprintf(`{"train":{"data":[%q],"steps":1,"batch":2,"logEvery":1,%s},"scheduling":{"priority":%d,"needs":{"labels":{"zone":"x"}}}}`,
			made.ClipsDir, tinyModel, priority)
		code, _, said = surmise(t, job, append([]string{"submit", "-f", "-", "--wait"}, flags...)...)
		return code, said
	}
	if code, said := submit(1); code != exitUsage || !strings.Contains(said, "at most 0") {
		t.Errorf("a priority above the bound: exit code %d: %s", code, said)
	}
	if code, said := submit(0); code != exitOK {
		t.Fatalf("exit code %d: %s", code, said)
	}
	up.end(t)
	if n := runs.Load(); n != 1 {
		t.Errorf("MLflow was told of %d runs, want 1", n)
	}
}
