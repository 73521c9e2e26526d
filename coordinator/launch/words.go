package launch

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxWords bounds what is kept of an engine's words, in bytes.
const maxWords = 500

// Words makes what an engine said fit a reason: valid UTF-8 on one line, without control characters, bounded.
func Words(s string) string {
	if len(s) > 64*maxWords {
		s = s[:64*maxWords]
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= maxWords {
		return s
	}
	end := maxWords
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + " …"
}
