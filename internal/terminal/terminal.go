// Package terminal makes text of others, such as names of files and words of workers, fit for a terminal.
package terminal

import (
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text is s with what is no letter, sign, space or line break written as an escape, such as the sequences that terminals obey.
func Text(s string) string {
	lines := strings.Split(s, "\n") // one by one: bytes around a break may not join into a character
	for i, line := range lines {
		if !prints(line) {
			quoted := strconv.Quote(line)
			lines[i] = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
		}
	}
	return strings.Join(lines, "\n")
}

// Line is s, quoted where it would not stay on its line, or not print as it is.
func Line(s string) string {
	if prints(s) {
		return s
	}
	return strconv.Quote(s)
}

func prints(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) })
}

// Writer writes Text of each call to W.
type Writer struct{ W io.Writer }

func (w Writer) Write(p []byte) (int, error) {
	if _, err := io.WriteString(w.W, Text(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
