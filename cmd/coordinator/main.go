// Command coordinator takes jobs over gRPC and gives them to workers. It needs neither cgo nor OpenCV.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	"github.com/surmise-ml/surmise/cmd/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := daemon.Alone(coordinatorcmd.Command()).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		stop()
		os.Exit(1)
	}
}
