package compare

import (
	"math"
	"strconv"
	"testing"

	"github.com/surmise-ml/surmise/internal/golden"
)

func TestGoldenPublishedMetrics(t *testing.T) {
	var want struct {
		ContextLengths []int                                    `json:"context_lengths"`
		Metrics        map[string]map[string]map[string]float64 `json:"metrics"`
	}
	golden.JSON(t, "vjepa_surprise.json", &want)
	if len(want.Metrics) == 0 {
		t.Fatal("manifest holds no metrics")
	}
	data := golden.Tensors(t, "vjepa_surprise.safetensors")
	for name, contexts := range want.Metrics {
		losses, labelTensor := data["metrics."+name+".losses"], data["metrics."+name+".labels"] // [N,C,W], [N]
		n, c, w := losses.Shape[0], losses.Shape[1], losses.Shape[2]
		labels := make([]int, n)
		for i := range labels {
			labels[i] = int(labelTensor.I64[i])
		}
		at := func(i, k, j int) float32 { return losses.F32[(i*c+k)*w+j] }
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
				context := "ctx" + strconv.Itoa(want.ContextLengths[k])
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
