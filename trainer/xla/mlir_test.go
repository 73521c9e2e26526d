package xla_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/surmise-ml/surmise/trainer/model"
	"github.com/surmise-ml/surmise/trainer/xla"
)

// Every kind of module is MLIR: a parser that is not ours reads it, and writes all of its operations back.
func TestModulesAreMLIR(t *testing.T) {
	tool, err := exec.LookPath("mlir-opt-19")
	if err != nil {
		t.Skip("mlir-opt-19 is not installed (Debian: mlir-19-tools)")
	}
	for name, k := range kinds {
		variants := []xla.Options{{Precision: xla.InBF16, Tuning: xla.Tuning{FusedAttention: true, Steps: 2}}}
		if name == "masked" {
			variants = append(variants, xla.Options{}, xla.Options{Precision: xla.InTF32})
		}
		for _, o := range variants {
			t.Run(fmt.Sprintf("%s %s, fused %t, %d steps", name, o.Precision, o.FusedAttention, o.Steps), func(t *testing.T) {
				c := k.config
				c.Dim, c.PredDim = 48, 32 // heads of 16 features, which fused attention takes
				tr := training(t, c, 2, k.groups, model.TrainingOptions{Exponent: 1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8})
				m, d := machine(t, tr.Program, o)
				var texts []string
				d.Watch = func(m xla.Module) { texts = append(texts, m.Text) }
				setWeights(m, tr, 1)
				setInputs(t, m, tr, 1)
				if err := m.Run(); err != nil {
					t.Fatal(err)
				}
				for i := range uint64(2) {
					setInputs(t, m, tr, 1+i)
					if err := m.Step(); err != nil {
						t.Fatal(err)
					}
				}
				if err := m.Wait(); err != nil {
					t.Fatal(err)
				}
				if len(texts) < 2 {
					t.Fatalf("%d modules were compiled", len(texts))
				}
				for _, text := range texts {
					cmd := exec.CommandContext(t.Context(), tool, "--allow-unregistered-dialect", "--mlir-print-op-generic")
					cmd.Stdin = strings.NewReader(text)
					var out, errs bytes.Buffer
					cmd.Stdout, cmd.Stderr = &out, &errs
					if err := cmd.Run(); err != nil {
						t.Fatalf("%v: %.2000s", err, errs.String())
					}
					for _, op := range []string{`"stablehlo.dot_general"(`, `"stablehlo.reduce"(`, `"chlo.erf"(`, `"stablehlo.while"(`, `"stablehlo.custom_call"(`} {
						if got, want := strings.Count(out.String(), op), strings.Count(text, op); got != want {
							t.Errorf("%d operations %s were read, %d written", got, op, want)
						}
					}
				}
			})
		}
	}
}
