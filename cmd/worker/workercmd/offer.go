package workercmd

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/spf13/pflag"
)

// Offer is what a worker announces so that jobs may ask for it. It is taken at its word.
type Offer struct {
	Labels map[string]string
	GPUs   int
	Memory int64 // bytes; 0: not said, which meets no job's need for memory
}

// Flags adds the flags that fill o.
func (o *Offer) Flags(flags *pflag.FlagSet) {
	flags.StringToStringVar(&o.Labels, "label", nil, "NAME=VALUE that jobs may ask for; repeat for more")
	flags.IntVar(&o.GPUs, "gpus", 0, "GPUs that jobs may ask for")
	flags.Int64Var(&o.Memory, "memory", 0, "bytes of memory that jobs may ask for")
}

func (o Offer) check() error {
	switch {
	case o.GPUs < 0 || o.GPUs > 1024:
		return &FlagError{"gpus", fmt.Sprint(o.GPUs), errors.New("want 0 to 1024")}
	case o.Memory < 0:
		return &FlagError{"memory", fmt.Sprint(o.Memory), errors.New("want 0 or more")}
	case len(o.Labels) > 64:
		return &FlagError{"label", fmt.Sprint(len(o.Labels)), errors.New("want at most 64")}
	}
	for name, value := range o.Labels {
		if label := name + "=" + value; !utf8.ValidString(label) { // it is said to the coordinator, in a message
			return &FlagError{"label", label, errors.New("is not UTF-8")}
		}
	}
	return nil
}
