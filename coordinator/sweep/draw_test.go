package sweep

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	surmisev1 "github.com/surmise-ml/surmise/proto/surmise/v1"
)

// A value is drawn without a copy of the job, which may name thousands of files.
func TestDrawsDoNotCopyTheJob(t *testing.T) {
	train := &surmisev1.TrainSpec{}
	for i := range 10_000 {
		train.Data = append(train.Data, fmt.Sprint("f", i))
	}
	request := &surmisev1.SubmitSweepRequest{Spec: &surmisev1.SubmitSweepRequest_Train{Train: train}, Samples: 1000}
	for _, path := range []string{"train.optimizer.learning_rate", "train.optimizer.weight_decay"} {
		request.Parameters = append(request.Parameters, &surmisev1.SweepParameter{Path: path,
			Values: &surmisev1.SweepParameter_Uniform{Uniform: &surmisev1.Range{Min: 0.001, Max: 0.01}}})
	}
	axes, err := axesOf(t.Context(), request, baseOf(request))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range request.Samples {
		for _, a := range axes {
			a.draw(rng)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / uint64(2*request.Samples); each > 4096 {
		t.Errorf("a value takes %d bytes to draw", each)
	}
}
