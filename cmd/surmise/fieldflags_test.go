package main

import (
	"errors"
	"testing"

	"github.com/spf13/pflag"

	"github.com/surmise-ml/surmise/proto/jobspec"
)

func TestByFlags(t *testing.T) {
	flags := pflag.NewFlagSet("score", pflag.ContinueOnError)
	for _, name := range []string{"pairs", "videos", "model", "frame-step", "protocol", "json"} {
		flags.String(name, "", "")
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New(`score.pairs: pairs file score.json: line 1`), `--pairs: pairs file score.json: line 1`},
		{errors.New(`score.videos[3]: "score.videos": no such file`), `--videos: "score.videos": no such file`},
		{errors.New(`score.top_tokens: -1`), `score.top_tokens: -1`},
		{errors.New(`reading score.model: gone`), `reading score.model: gone`},
		{jobspec.Errors{{Field: "score.frame_step", Problem: "is settled by score.protocol grasp and must be left empty"}, {Field: "score.model", Problem: "must be short, got score.json"}},
			`--frame-step: is settled by --protocol grasp and must be left empty; --model: must be short, got score.json`},
	} {
		got := byFlags(flags, "score", c.err)
		if got.Error() != c.want || !errors.Is(got, c.err) && !errors.As(got, new(jobspec.Errors)) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
