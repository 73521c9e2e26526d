// Command worker runs the jobs of a coordinator.
package main

import (
	"fmt"
	"os"

	"github.com/surmise-ml/surmise/cmd/daemon"
	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/video"
)

var version string // set by the linker

func main() {
	video.ServeIfAsked()
	ctx, stop := daemon.Context()
	defer stop()
	stopTracing, err := daemon.StartTracing(ctx)
	if err == nil {
		err = daemon.Alone(workercmd.Command(daemon.Version(version)), daemon.Version(version)).ExecuteContext(ctx)
		stopTracing()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}
