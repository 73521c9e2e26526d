package video

import (
	"math"
	"slices"
	"strings"
	"testing"
)

// Every byte comes back from its normalised value, by colour; what is beyond goes to the nearest, and NaN nowhere.
func TestDenormalize(t *testing.T) {
	const plane = 300
	scale, shift := Normalisation()
	var clip []float32
	var want []byte
	for c := range 3 {
		for i := range plane {
			b := byte((i + 40*c) % 256)
			want = append(want, b)
			clip = append(clip, scale[c]*(float32(b)+0.4*float32(i%3-1))+shift[c])
		}
	}
	clip[0], want[0] = -100, 0
	clip[1], want[1] = 100, 255
	clip[2], want[2] = float32(math.Inf(1)), 255
	got := make([]byte, len(clip))
	if err := Denormalize(got, clip); err != nil || !slices.Equal(got, want) {
		t.Errorf("bytes differ, or %v", err)
	}
	clip[2*plane+7] = float32(math.NaN())
	if err := Denormalize(got, clip); err == nil || !strings.Contains(err.Error(), "value 607 of a clip is NaN") {
		t.Errorf("NaN gave %v", err)
	}
	if err := Denormalize(nil, nil); err != nil {
		t.Error(err)
	}
}

func BenchmarkDenormalize(b *testing.B) {
	clip := make([]float32, 3*16*224*224)
	for i := range clip {
		clip[i] = float32(i%500)/100 - 2.5
	}
	dst := make([]byte, len(clip))
	b.SetBytes(int64(len(clip)))
	for b.Loop() {
		if err := Denormalize(dst, clip); err != nil {
			b.Fatal(err)
		}
	}
}
