package workercmd

import (
	"slices"
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
