package main

import (
	"regexp"
	"strings"

	"github.com/spf13/pflag"
)

// byFlags words an error of a job's fields by the flags that they were given with: "score.frame_step" is --frame-step. Fields
// that have no flag of their name keep theirs.
func byFlags(flags *pflag.FlagSet, kind string, err error) error {
	field := regexp.MustCompile(`\b` + kind + `\.[a-z_]+(\[\d+\])?`)
	text := field.ReplaceAllStringFunc(err.Error(), func(name string) string {
		flag, _, _ := strings.Cut(strings.TrimPrefix(name, kind+"."), "[")
		if flag = strings.ReplaceAll(flag, "_", "-"); flags.Lookup(flag) == nil {
			return name
		}
		return "--" + flag
	})
	return flagFault{err, text}
}

// flagFault is an error in other words.
type flagFault struct {
	error
	text string
}

func (e flagFault) Error() string { return e.text }
func (e flagFault) Unwrap() error { return e.error }
