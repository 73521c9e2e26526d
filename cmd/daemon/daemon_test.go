package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
)

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// A process is ready when all of its services are, and says which one is not.
func TestReadiness(t *testing.T) {
	m := NewMonitor("coordinator", "worker")
	h := m.Handler()
	if code, said := get(t, h, "/readyz"); code != http.StatusServiceUnavailable || said != "coordinator: starting\nworker: starting\n" {
		t.Errorf("at the start: %d %q", code, said)
	}
	select {
	case <-m.Started():
		t.Error("started without its services")
	default:
	}
	m.ReadyWhen("coordinator", func(context.Context) error { return nil })
	away := errors.New("not attached")
	m.ReadyWhen("worker", func(context.Context) error { return away })
	<-m.Started()
	if code, said := get(t, h, "/readyz"); code != http.StatusServiceUnavailable || said != "worker: not attached\n" {
		t.Errorf("while one is away: %d %q", code, said)
	}
	away = nil
	if code, said := get(t, h, "/readyz"); code != http.StatusOK || said != "ok\n" {
		t.Errorf("when both are there: %d %q", code, said)
	}
	away = errors.New("not attached")
	if code, _ := get(t, h, "/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d; what is not ready is not dead", code)
	}
	if code, _ := get(t, h, "/"); code != http.StatusNotFound {
		t.Errorf("another path: %d", code)
	}
}

func TestServe(t *testing.T) {
	m := NewMonitor()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "surmise_test", Help: "A test."})
	gauge.Set(3)
	m.Registerer().MustRegister(gauge)
	logger := slog.New(slog.DiscardHandler)
	at, done, err := m.Serve(t.Context(), "127.0.0.1:0", logger)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at.String()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || !strings.Contains(string(text), "\nsurmise_test 3\n") || !strings.Contains(string(text), "\ngo_goroutines ") {
		t.Errorf("read %q (%v)", text, err)
	}
	var fault *AddressError
	if _, _, err := m.Serve(t.Context(), at.String(), logger); !errors.As(err, &fault) || fault.Address != at.String() {
		t.Errorf("an address in use: %v", err)
	}
	done()
	if again, done, err := m.Serve(t.Context(), at.String(), logger); err != nil {
		t.Errorf("the address is not given back: %v", err)
	} else if done(); again.String() != at.String() {
		t.Errorf("serves at %v", again)
	}
}

func TestLogging(t *testing.T) {
	var out bytes.Buffer
	logger, err := Logging{Level: "warn", Format: "json"}.Logger(&out)
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("not this")
	logger.Warn("this", "job", "jobs/a", "epoch", 2)
	var record struct {
		Msg, Level, Job string
		Epoch           int
	}
	if err := json.Unmarshal(out.Bytes(), &record); err != nil || record.Msg != "this" || record.Level != "WARN" || record.Job != "jobs/a" || record.Epoch != 2 {
		t.Errorf("%s (%v)", out.Bytes(), err)
	}
	for _, l := range []Logging{{"loud", "text"}, {"info", "xml"}, {"", ""}} {
		if _, err := l.Logger(&out); err == nil {
			t.Errorf("%+v is accepted", l)
		}
	}
}

func TestAlone(t *testing.T) {
	before := slog.Default()
	defer slog.SetDefault(before)
	var out bytes.Buffer
	cmd := Alone(&cobra.Command{Use: "serve", RunE: func(*cobra.Command, []string) error {
		slog.Debug("served", "worker", "w")
		return nil
	}}, "v1")
	cmd.SetErr(&out)
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--version"})
	if err := cmd.Execute(); err != nil || out.String() != "serve version v1\n" {
		t.Errorf("--version prints %q (%v)", out.String(), err)
	}
	if err := cmd.Flags().Set("version", "false"); err != nil {
		t.Fatal(err)
	}
	cmd.SetArgs([]string{"--log-level", "debug", "--log-format", "json"})
	if err := cmd.Execute(); err != nil || !strings.Contains(out.String(), `"worker":"w"`) {
		t.Errorf("logged %q (%v)", out.String(), err)
	}
	cmd.SetArgs([]string{"--log-format", "xml"})
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	if err := cmd.Execute(); err == nil {
		t.Error("xml is accepted")
	}
}
