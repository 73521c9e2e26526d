package compare

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// goldenFolder is the project's own copy, or the folder in SURMISE_GOLDEN.
func goldenFolder() string {
	if dir := os.Getenv("SURMISE_GOLDEN"); dir != "" {
		return dir
	}
	return "testdata"
}

// goldenTensor reads one tensor of a trusted safetensors file: its shape, and its
// little-endian bytes.
func goldenTensor(t *testing.T, file, name string) ([]int, []byte) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(goldenFolder(), file))
	if err != nil {
		t.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(data)
	var header map[string]struct {
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(data[8:8+n], &header); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	h, ok := header[name]
	if !ok {
		t.Fatalf("%s holds no tensor %q", file, name)
	}
	return h.Shape, data[8+n:][h.Offsets[0]:h.Offsets[1]]
}

func TestGoldenPublishedMetrics(t *testing.T) {
	manifest, err := os.ReadFile(filepath.Join(goldenFolder(), "vjepa_surprise.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		ContextLengths []int                                    `json:"context_lengths"`
		Metrics        map[string]map[string]map[string]float64 `json:"metrics"`
	}
	if err := json.Unmarshal(manifest, &want); err != nil {
		t.Fatal(err)
	}
	if len(want.Metrics) == 0 {
		t.Fatal("manifest holds no metrics")
	}
	for name, contexts := range want.Metrics {
		shape, raw := goldenTensor(t, "vjepa_surprise.safetensors", "metrics."+name+".losses") // [N,C,W]
		_, rawLabels := goldenTensor(t, "vjepa_surprise.safetensors", "metrics."+name+".labels")
		n, c, w := shape[0], shape[1], shape[2]
		labels := make([]int, n)
		for i := range labels {
			labels[i] = int(binary.LittleEndian.Uint64(rawLabels[8*i:]))
		}
		at := func(i, k, j int) float32 {
			return math.Float32frombits(binary.LittleEndian.Uint32(raw[4*((i*c+k)*w+j):]))
		}
		rows := map[string][][]float32{}
		for i := range n {
			filtered := make([]float32, w)
			for j := range w {
				filtered[j] = at(i, 0, j)
			}
			for k := range c {
				row := make([]float32, w)
				for j := range w {
					row[j] = at(i, k, j)
					filtered[j] = min(filtered[j], row[j])
				}
				context := "ctx" + jsonInt(want.ContextLengths[k])
				rows[context] = append(rows[context], row)
			}
			rows["filtered"] = append(rows["filtered"], filtered)
		}
		for context, metrics := range contexts {
			t.Run(name+"/"+context, func(t *testing.T) {
				got, err := Published(rows[context], labels)
				if err != nil {
					t.Fatal(err)
				}
				values := map[string]float64{
					"Relative Accuracy (avg)":      got.RelativeAccuracyAvg,
					"Relative Accuracy (max)":      got.RelativeAccuracyMax,
					"Absolute Accuracy (max)":      got.AbsoluteAccuracyMax,
					"Classifier threhshold":        got.Threshold,
					"Best Absolute Accuracy (max)": got.BestAbsoluteAccuracyMax,
					"Best Classifier threhshold":   got.BestThreshold,
					"AUPRC (avg)":                  got.AUPRCAvg,
					"AUPRC (max)":                  got.AUPRCMax,
					"AUROC (avg)":                  got.AUROCAvg,
					"AUROC (max)":                  got.AUROCMax,
				}
				for key, w := range metrics {
					g, ok := values[key]
					if !ok {
						t.Errorf("metric %q is not computed", key)
					} else if math.Abs(g-w) > 1e-6 {
						t.Errorf("%s = %.9g, want %.9g", key, g, w)
					}
				}
			})
		}
	}
}

func jsonInt(i int) string { b, _ := json.Marshal(i); return string(b) }
