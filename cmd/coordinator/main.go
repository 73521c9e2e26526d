// Command coordinator takes jobs over gRPC and gives them to workers. It needs neither cgo nor OpenCV.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	"github.com/surmise-ml/surmise/cmd/daemon"
)

var version string // set by the linker

func main() {
	ctx, stop := daemon.Context()
	stopTracing, err := daemon.StartTracing(ctx)
	if err == nil {
		err = daemon.Alone(coordinatorcmd.Command(), daemon.Version(version)).ExecuteContext(ctx)
		stopTracing()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		stop()
		code := 1
		var usage *coordinatorcmd.UsageError
		var flag *daemon.UsageError
		if errors.As(err, &usage) || errors.As(err, &flag) {
			code = 2
		}
		os.Exit(code)
	}
}
