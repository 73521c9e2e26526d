package queue

import (
	"fmt"
	"testing"
)

// Of more owners than are remembered those are forgotten who were served longest ago: they are next.
func TestForgottenOwnersAreNext(t *testing.T) {
	var s shares
	for i := range maxServed + 1 {
		s.serve(fmt.Sprint("o", i))
	}
	first, last := s.served["o0"], s.served[fmt.Sprint("o", maxServed-1)]
	if len(s.served) > maxServed || first != 0 || last == 0 {
		t.Errorf("%d remembered, the first served %d, one of the last %d", len(s.served), first, last)
	}
}
