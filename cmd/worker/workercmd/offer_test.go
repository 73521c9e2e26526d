package workercmd

import (
	"errors"
	"testing"

	"github.com/spf13/pflag"
)

func TestOffer(t *testing.T) {
	var o Offer
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.Flags(flags)
	if err := flags.Parse([]string{"--label", "zone=x", "--label", "disk=ssd", "--gpus", "2", "--memory", "1073741824"}); err != nil {
		t.Fatal(err)
	}
	if o.Labels["zone"] != "x" || o.Labels["disk"] != "ssd" || o.GPUs != 2 || o.Memory != 1<<30 || o.check() != nil {
		t.Errorf("got %+v, %v", o, o.check())
	}
	for name, bad := range map[string]Offer{"gpus": {GPUs: -1}, "memory": {Memory: -1}} {
		var flag *FlagError
		if err := bad.check(); !errors.As(err, &flag) || flag.Flag != name {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
