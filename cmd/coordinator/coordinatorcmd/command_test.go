package coordinatorcmd

import (
	"errors"
	"net"
	"strings"
	"testing"
)

// An address that cannot be listened on says what to give in its place.
func TestAddressesThatCannotBe(t *testing.T) {
	var config net.ListenConfig
	taken, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]string{taken.Addr().String(): "give this one another --listen and --data-dir", "7433": "want HOST:PORT"} {
		_, err := config.Listen(t.Context(), "tcp", address)
		var usage *UsageError
		if got := cannotListen(address, err); !strings.Contains(got.Error(), want) || errors.As(got, &usage) != (address == "7433") {
			t.Errorf("%s: %v, want %q", address, got, want)
		}
	}
}
