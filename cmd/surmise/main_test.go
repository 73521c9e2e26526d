package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/surmise-ml/surmise/video"
)

func TestMain(m *testing.M) {
	video.ServeIfAsked()                               // decoders are processes of the test binary
	if len(os.Args) > 1 && os.Args[1] == "gpu-probe" { // and so is what doctor starts
		os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	home, err := os.MkdirTemp("", "surmise-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := os.Setenv("XDG_CACHE_HOME", home); err != nil { // and keep nothing in the user's
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(home)
	os.Exit(code)
}
