package torch_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/surmise-ml/surmise/internal/golden"
	"github.com/surmise-ml/surmise/trainer/checkpoint/torch"
)

func open(t *testing.T, name string) *torch.File {
	t.Helper()
	f, err := torch.Open(golden.Path(t, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func dict(t *testing.T, v torch.Value) *torch.Dict {
	t.Helper()
	d, ok := v.(*torch.Dict)
	if !ok {
		t.Fatalf("%s, want a dict", torch.Describe(v))
	}
	return d
}

// Types, views with offsets and strides, shared storages, an empty tensor and a parameter, as PyTorch wrote them.
func TestGoldenTypesAndViews(t *testing.T) {
	want := golden.Tensors(t, "torch_misc.safetensors")
	root := dict(t, open(t, "torch_misc.pth").Root)
	compared := 0
	var compare func(name string, v torch.Value)
	compare = func(name string, v torch.Value) {
		switch v := v.(type) {
		case *torch.Dict:
			for _, item := range v.Items {
				compare(name+fmt.Sprint(item.Key)+".", item.Value)
			}
		case *torch.List:
			for i, item := range v.Items {
				compare(fmt.Sprintf("%s%d.", name, i), item)
			}
		case *torch.Tensor:
			w, ok := want[name[:len(name)-1]]
			if !ok {
				t.Errorf("%s: not among the expected tensors", name)
				return
			}
			compared++
			if !slices.Equal(v.Shape, w.Shape) {
				t.Errorf("%s: shape %v, want %v", name, v.Shape, w.Shape)
				return
			}
			if w.I64 != nil {
				got := make([]int64, v.Size())
				if err := v.Ints(got); err != nil || !slices.Equal(got, w.I64) {
					t.Errorf("%s: %v (%v), want %v", name, got, err, w.I64)
				}
				return
			}
			got := make([]float32, v.Size())
			if err := v.Floats(got); err != nil || !slices.Equal(got, w.F32) {
				t.Errorf("%s: %v (%v), want %v", name, got, err, w.F32)
			}
		}
	}
	compare("", root)
	if compared != len(want) {
		t.Errorf("%d tensors compared, want %d", compared, len(want))
	}
}

// Whole checkpoints in both formats: every key, shape and bit.
func TestGoldenCheckpoints(t *testing.T) {
	for file, manifest := range map[string]string{"vjepa1_ckpt.pth.tar": "vjepa1_ckpt.json", "vjepa1_ckpt_legacy.pth.tar": "vjepa1_ckpt.json", "vjepa2_ckpt.pt": "vjepa2_ckpt.json"} {
		t.Run(file, func(t *testing.T) {
			var m struct {
				Keys    []string `json:"top_level_keys"`
				Tensors map[string]map[string]struct {
					Shape  []int
					SHA256 string `json:"sha256_f32le"`
				}
			}
			golden.JSON(t, manifest, &m)
			root := dict(t, open(t, file).Root)
			var keys []string
			for _, item := range root.Items {
				keys = append(keys, string(item.Key.(torch.String)))
			}
			if !slices.Equal(keys, m.Keys) {
				t.Errorf("keys %v, want %v", keys, m.Keys)
			}
			for network, tensors := range m.Tensors {
				state := dict(t, root.Get(network))
				if len(state.Items) != len(tensors) {
					t.Errorf("%s has %d tensors, want %d", network, len(state.Items), len(tensors))
				}
				for name, want := range tensors {
					x, ok := state.Get(name).(*torch.Tensor)
					if !ok || !slices.Equal(x.Shape, want.Shape) {
						t.Fatalf("%s %s: %s, want shape %v", network, name, torch.Describe(state.Get(name)), want.Shape)
					}
					values := make([]float32, x.Size())
					if err := x.Floats(values); err != nil {
						t.Fatal(err)
					}
					if got := digest(values); got != want.SHA256 {
						t.Errorf("%s %s: SHA-256 %s, want %s", network, name, got, want.SHA256)
					}
				}
			}
		})
	}
}

func digest(x []float32) string {
	h := sha256.New()
	for _, v := range x {
		_, _ = h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// The optimiser's state: nested dicts with integer keys, step tensors of no dimension, lists of parameters.
func TestGoldenOptimizerState(t *testing.T) {
	var m struct {
		HasState bool `json:"opt_has_state"`
		Groups   []struct {
			WeightDecay float64 `json:"weight_decay"`
			Params      []int
		} `json:"opt_param_groups"`
		Sums map[string]struct {
			Step float64
			Avg  struct{ L2 float64 } `json:"exp_avg"`
		} `json:"opt_state_checksums"`
	}
	golden.JSON(t, "vjepa1_ckpt.json", &m)
	opt := dict(t, dict(t, open(t, "vjepa1_ckpt.pth.tar").Root).Get("opt"))
	groups := opt.Get("param_groups").(*torch.List)
	if len(groups.Items) != len(m.Groups) {
		t.Fatalf("%d groups, want %d", len(groups.Items), len(m.Groups))
	}
	for i, g := range groups.Items {
		got := dict(t, g).Get("weight_decay")
		var decay float64
		switch v := got.(type) {
		case torch.Float:
			decay = float64(v)
		case torch.Int:
			decay = float64(v)
		}
		if decay != m.Groups[i].WeightDecay || len(dict(t, g).Get("params").(*torch.List).Items) != len(m.Groups[i].Params) {
			t.Errorf("group %d: weight decay %v, want %v", i, decay, m.Groups[i].WeightDecay)
		}
	}
	state := dict(t, opt.Get("state"))
	if len(state.Items) != len(m.Sums) {
		t.Errorf("state of %d parameters, want %d", len(state.Items), len(m.Sums))
	}
	for _, item := range state.Items {
		want := m.Sums[fmt.Sprint(item.Key)]
		x := dict(t, item.Value).Get("exp_avg").(*torch.Tensor)
		values := make([]float32, x.Size())
		if err := x.Floats(values); err != nil {
			t.Fatal(err)
		}
		var sum float64
		for _, v := range values {
			sum += float64(v) * float64(v)
		}
		if got := math.Sqrt(sum); math.Abs(got-want.Avg.L2) > 1e-6*want.Avg.L2 {
			t.Errorf("parameter %v: norm of exp_avg %v, want %v", item.Key, got, want.Avg.L2)
		}
	}
}
