// Command worker runs the jobs of a coordinator.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/surmise-ml/surmise/cmd/daemon"
	"github.com/surmise-ml/surmise/cmd/dial"
	"github.com/surmise-ml/surmise/cmd/worker/workercmd"
	"github.com/surmise-ml/surmise/video"
)

var version string // set by the linker

func main() {
	video.ServeIfAsked()
	ctx, stop := daemon.Context()
	stopTracing, err := daemon.StartTracing(ctx)
	if err == nil {
		err = daemon.Alone(workercmd.Command(daemon.Version(version)), daemon.Version(version)).ExecuteContext(ctx)
		stopTracing()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		stop()
		code := 1
		var flag *workercmd.FlagError
		var reach *dial.FlagError
		var usage *daemon.UsageError
		if errors.As(err, &flag) || errors.As(err, &reach) || errors.As(err, &usage) {
			code = 2
		}
		os.Exit(code)
	}
}
