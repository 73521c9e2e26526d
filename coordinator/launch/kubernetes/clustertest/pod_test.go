package clustertest

import "testing"

func TestExpand(t *testing.T) {
	env := map[string]string{"A": "1", "B": "two"}
	for text, want := range map[string]string{
		"":                "",
		"--name=x-$(A)":   "--name=x-1",
		"$(A)$(B):$(C)":   "1two:$(C)",
		"$$(A) $A $( $":   "$(A) $A $( $",
		"postgres://$(B)": "postgres://two",
	} {
		if got := expand(text, env); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
