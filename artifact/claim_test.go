package artifact

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	first, claim, err := Claim(dir)
	if err != nil || first != dir {
		t.Fatalf("got %s, %v", first, err)
	}
	second, other, err := Claim(dir)
	if err != nil || second != dir+".2" {
		t.Fatalf("the second has %s, %v", second, err)
	}
	if err := claim.Close(); err != nil {
		t.Fatal(err)
	}
	again, third, err := Claim(dir)
	if err != nil || again != dir {
		t.Errorf("what was left is claimed as %s, %v", again, err)
	}
	for _, c := range []interface{ Close() error }{other, third} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := Claim("/dev/null/x"); err == nil || !strings.Contains(err.Error(), "claiming /dev/null/x") {
		t.Errorf("got %v", err)
	}
}
