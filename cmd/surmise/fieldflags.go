package main

import (
	"errors"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"github.com/surmise-ml/surmise/proto/jobspec"
)

// byFlags words an error of a job's fields by the flags that they were given with: "score.frame_step" is --frame-step. Fields
// that have no flag of their name keep theirs. What a name or a value of the caller's holds is left alone: of an error that is
// no rule of the API only the field that it begins with is reworded.
func byFlags(flags *pflag.FlagSet, kind string, err error) error {
	named := func(name string) string {
		flag, _, _ := strings.Cut(strings.TrimPrefix(name, kind+"."), "[")
		if flag = strings.ReplaceAll(flag, "_", "-"); flags.Lookup(flag) == nil {
			return name
		}
		return "--" + flag
	}
	var fields jobspec.Errors
	if !errors.As(err, &fields) {
		field := regexp.MustCompile(`^` + kind + `\.[a-z_]+(\[\d+\])?`)
		return flagFault{err, field.ReplaceAllStringFunc(err.Error(), named)}
	}
	said := make(jobspec.Errors, len(fields))
	word := regexp.MustCompile(`(^| )` + kind + `\.[a-z_]+\b`)
	for i, f := range fields {
		problem, value, quotes := strings.Cut(f.Problem, ", got ")
		problem = word.ReplaceAllStringFunc(problem, func(found string) string {
			name := strings.TrimPrefix(found, " ")
			return found[:len(found)-len(name)] + named(name)
		})
		if quotes {
			problem += ", got " + value
		}
		said[i] = jobspec.FieldError{Field: named(f.Field), Problem: problem}
	}
	return flagFault{err, said.Error()}
}

// flagFault is an error in other words.
type flagFault struct {
	error
	text string
}

func (e flagFault) Error() string { return e.text }
func (e flagFault) Unwrap() error { return e.error }
