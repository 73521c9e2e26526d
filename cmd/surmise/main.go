// Command surmise trains video predictors and measures how plausible a video is to them.
package main

import (
	"os"

	"github.com/surmise-ml/surmise/cmd/daemon"
	"github.com/surmise-ml/surmise/video"
)

func main() {
	video.ServeIfAsked()
	ctx, stop := daemon.Context()
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
