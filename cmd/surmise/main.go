// Command surmise trains video predictors and measures how plausible a video is to them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/surmise-ml/surmise/video"
)

func main() {
	video.ServeIfAsked()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal asks for an orderly end, a second one kills
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
