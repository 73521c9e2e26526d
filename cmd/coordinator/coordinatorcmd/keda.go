package coordinatorcmd

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/surmise-ml/surmise/coordinator/keda"
	"github.com/surmise-ml/surmise/coordinator/launch"
)

// listenForKEDA listens at an address, for serveKEDA.
func listenForKEDA(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--keda-addr %q: %w", address, err)
	}
	return listener, nil
}

// serveKEDA answers KEDA until stop is called, which says how that went.
func serveKEDA(ctx context.Context, listener net.Listener, jobs launch.Demander, log *slog.Logger) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- keda.New(jobs, nil, 0).Serve(ctx, listener, log) }()
	return func() error {
		cancel()
		return <-ended
	}
}
