package coordinatorcmd

import (
	"context"
	"log/slog"
	"net"
	"testing"
)

// A coordinator that is told to stop while it waits for its database ends as one that served does.
func TestStoppedBeforeItServes(t *testing.T) {
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{Listen: "127.0.0.1:0", DataDir: t.TempDir(), Store: "postgres://u@" + silent.Addr().String() + "/d?sslmode=disable", Logger: slog.New(slog.DiscardHandler)})
	}()
	conn, err := silent.Accept() // a database that says nothing
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
	_ = conn.Close()
	_ = silent.Close()
}
