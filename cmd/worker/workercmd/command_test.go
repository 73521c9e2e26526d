package workercmd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/cpu"
)

// A worker says that it has bf16 exactly where a job that asks for it would run.
func TestPrecisions(t *testing.T) {
	want := []string{"fp32"}
	if _, err := cpu.BF16.Resolve(); err == nil {
		want = append(want, "bf16")
	}
	if got := precisions(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFetchFlags(t *testing.T) {
	for _, c := range []struct {
		o    FetchOptions
		want string
	}{
		{FetchOptions{Schemes: []string{"ftp"}}, `--fetch-scheme "ftp"`},
		{FetchOptions{Hosts: []string{"http://x"}}, `--fetch-host "http://x"`},
		{FetchOptions{Networks: []string{"10.0.0.1"}}, `--fetch-network "10.0.0.1"`},
		{FetchOptions{Networks: []string{"169.254.0.0/16"}}, `--fetch-network "169.254.0.0/16"`},
	} {
		if _, err := c.o.rules(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %s", c.o, err, c.want)
		}
	}
	r, err := FetchOptions{Schemes: []string{"https"}, Hosts: []string{"*.example.org"}, Networks: []string{"10.1.2.3/16"}}.rules()
	if err != nil || len(r.Networks) != 1 || r.Networks[0].String() != "10.1.0.0/16" || r.Hosts[0] != "*.example.org" || r.Schemes[0] != "https" {
		t.Errorf("got %v, %v", r, err)
	}
}

// A name is part of paths, and is looked at before anything is.
func TestNamesThatArePathsAreRefused(t *testing.T) {
	for _, name := range []string{"../victim", "a/b", ".", "-x", strings.Repeat("x", 129)} {
		dir := filepath.Join(t.TempDir(), "data")
		var flag *FlagError
		if err := Run(t.Context(), Options{Name: name, DataDir: dir}); !errors.As(err, &flag) || flag.Flag != "name" {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q left something behind", name)
		}
	}
}
