package workercmd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/surmise-ml/surmise/worker/metrics"
)

// serveMetrics answers scrapes on an address until done is called.
func serveMetrics(ctx context.Context, address string, m *metrics.Metrics, logger *slog.Logger) (at net.Addr, done func(), err error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, nil, &FlagError{"metrics-addr", address, err}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
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
