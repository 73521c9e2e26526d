// Command worker runs the jobs of a coordinator.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/surmise-ml/surmise/cmd/daemon"
	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/video"
)

var version string // set by the linker

func main() {
	video.ServeIfAsked()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := daemon.Alone(workercmd.Command(workercmd.Version(version))).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}
