// Command coordinator takes jobs over gRPC and gives them to workers. It needs neither cgo nor OpenCV.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	"github.com/surmise-ml/surmise/cmd/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	stopTracing, err := daemon.StartTracing(ctx)
	if err == nil {
		err = daemon.Alone(coordinatorcmd.Command()).ExecuteContext(ctx)
		stopTracing()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		stop()
		code := 1
		if usage := (*coordinatorcmd.UsageError)(nil); errors.As(err, &usage) {
			code = 2
		}
		os.Exit(code)
	}
}
