package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/cmd/coordinator/coordinatorcmd"
	"github.com/surmise-ml/surmise/cmd/surmise/doctor"
)

// The machine that runs the tests decodes videos and has room, so nothing fails on it; a coordinator that is not there
// fails, and one that is there tells its time.
func TestDoctor(t *testing.T) {
	dir := t.TempDir()
	listening, served := make(chan net.Addr, 1), make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		served <- coordinatorcmd.Run(ctx, coordinatorcmd.Options{Listen: "127.0.0.1:0", DataDir: dir,
			Logger: slog.New(slog.DiscardHandler), Serving: func(a net.Addr) { listening <- a }})
	}()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	address := (<-listening).String()
	found := map[string]doctor.Check{}
	for d := json.NewDecoder(strings.NewReader(ok(t, "doctor", "--json", "--data-dir", dir, "--server", address))); d.More(); {
		var c doctor.Check
		if err := d.Decode(&c); err != nil {
			t.Fatal(err)
		}
		found[c.Name] = c
	}
	for _, name := range []string{"decoder", "OpenCV", "FFmpeg", "coordinator", "its clock"} {
		if c := found[name]; c.Status != doctor.OK {
			t.Errorf("%s: %+v", name, c)
		}
	}
	code, out, said := surmise(t, "", "doctor", "--data-dir", dir, "--coordinator", "127.0.0.1:1")
	if code != exitFailed || !strings.Contains(out, "fail") || !strings.Contains(out, "surmise up") || !strings.Contains(said, "1 of 15 checks failed") {
		t.Errorf("without a coordinator: exit code %d\n%s%s", code, out, said)
	}
}
