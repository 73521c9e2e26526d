package terminal

import (
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"plain, ünïcode, \"quoted\"":         "plain, ünïcode, \"quoted\"",
		"\x1b[31mred\x1b]0;t\a":              `\x1b[31mred\x1b]0;t\a`,
		"\xc3\n\x9b1mred":                    "\\xc3\n\\x9b1mred",
		"a C1 byte \x9b1m":                   `a C1 byte \x9b1m`,
		"right\u202eleft":                    `right\u202eleft`,
		"two\nlines and \"\x1b[1m\" a quote": "two\nlines and \"\\x1b[1m\" a quote",
	} {
		var written strings.Builder
		if n, err := (Writer{&written}).Write([]byte(text)); err != nil || n != len(text) {
			t.Errorf("%q: wrote %d of %d bytes, %v", text, n, len(text), err)
		}
		if got := Text(text); got != want || written.String() != want {
			t.Errorf("%q: %q, written %q, want %q", text, got, written.String(), want)
		}
	}
}

func TestLine(t *testing.T) {
	for text, want := range map[string]string{
		"plain \"ünï\".mp4":        "plain \"ünï\".mp4",
		"a.mp4\nwarning: all well": `"a.mp4\nwarning: all well"`,
		"no UTF-8: \xff":           `"no UTF-8: \xff"`,
	} {
		if got := Line(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
