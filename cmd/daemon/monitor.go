// Package daemon is what the long-running commands have in common: how they log, and what they show of themselves over
// HTTP.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"
)

// An AddressError is an address where a monitor cannot listen.
type AddressError struct {
	Address string
	Err     error
}

func (e *AddressError) Error() string { return fmt.Sprintf("--metrics-addr %q: %v", e.Address, e.Err) }
func (e *AddressError) Unwrap() error { return e.Err }

// MetricsFlag adds --metrics-addr to a command that runs a service.
func MetricsFlag(flags *pflag.FlagSet, address *string) {
	flags.StringVar(address, "metrics-addr", "", "address (host:port) of /metrics for Prometheus, /healthz and /readyz, without a password (default nowhere)")
}

// readyPatience bounds how long one answer of /readyz may take.
const readyPatience = 2 * time.Second

// Monitor shows over HTTP how the services of this process are:
//
//	/metrics   what Prometheus reads
//	/healthz   200 as long as the process answers: it need not be killed
//	/readyz    200 when every service can do its work, else 503 and why not
//
// Safe for concurrent use.
type Monitor struct {
	registry *prometheus.Registry
	started  chan struct{} // closed when no service is starting any more

	mu    sync.Mutex
	ready map[string]func(context.Context) error // by service; nil: it is starting. Guarded by mu.
}

// NewMonitor makes the monitor of the services named. None is ready before it says how it is.
func NewMonitor(services ...string) *Monitor {
	m := &Monitor{registry: prometheus.NewRegistry(), started: make(chan struct{}), ready: map[string]func(context.Context) error{}}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, s := range services {
		m.ready[s] = nil
	}
	return m
}

// Registerer takes the metrics of a service.
func (m *Monitor) Registerer() prometheus.Registerer { return m.registry }

// Started is closed when every service has said how it is asked, and has made its metrics before.
func (m *Monitor) Started() <-chan struct{} { return m.started }

// ReadyWhen says how a service is asked whether it is ready. A service calls it once.
func (m *Monitor) ReadyWhen(service string, check func(context.Context) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready[service] = check
	for _, check := range m.ready {
		if check == nil {
			return
		}
	}
	close(m.started)
}

// Handler answers under the paths above.
func (m *Monitor) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyPatience)
		defer cancel()
		if err := m.check(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// check asks every service and joins what they answer.
func (m *Monitor) check(ctx context.Context) error {
	m.mu.Lock()
	ready := maps.Clone(m.ready)
	m.mu.Unlock()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(ready)) {
		if ready[name] == nil {
			errs = append(errs, fmt.Errorf("%s: starting", name))
		} else if err := ready[name](ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Serve answers on an address until done is called.
func (m *Monitor) Serve(ctx context.Context, address string, logger *slog.Logger) (at net.Addr, done func(), err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, nil, &AddressError{address, err}
	}
	server := &http.Server{Handler: m.Handler(), ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("metrics are no longer served", "address", listener.Addr().String(), "error", err)
		}
	}()
	logger.Info("metrics are served", "url", "http://"+listener.Addr().String()+"/metrics")
	return listener.Addr(), func() {
		ctx, stop := context.WithTimeout(context.Background(), time.Second) // for a scrape that is being answered
		defer stop()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-ended
	}, nil
}
