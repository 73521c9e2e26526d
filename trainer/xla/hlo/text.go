package hlo

import (
	"fmt"
	"io"
	"strings"
)

// Text writes the module. It returns the first mistake that was made while it was built.
func (f *Func) Text() (string, error) {
	if f.err != nil {
		return "", f.err
	}
	if f.results == nil {
		return "", fmt.Errorf("module %s returns nothing", f.name)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "module @%s {\n  func.func public @main(", symbol(f.name))
	for i, a := range f.args {
		if i > 0 {
			s.WriteString(", ")
		}
		fmt.Fprintf(&s, "%v: %v", a.ref(), a.Type)
		if r, ok := f.aliases[i]; ok {
			fmt.Fprintf(&s, " {tf.aliasing_output = %d : i32}", r)
		}
	}
	fmt.Fprintf(&s, ") -> %s {\n", tuple(f.Results()))
	f.body.write(&s, "    ")
	s.WriteString("  }\n}\n")
	return s.String(), nil
}

func (v *Value) ref() string { return fmt.Sprintf("%%v%d", v.id) }

func refs(vs []*Value) string {
	s := make([]string, len(vs))
	for i, v := range vs {
		s[i] = v.ref()
	}
	return strings.Join(s, ", ")
}

func tuple(ts []Type) string {
	s := make([]string, len(ts))
	for i, t := range ts {
		s[i] = t.String()
	}
	return "(" + strings.Join(s, ", ") + ")"
}

func (b *block) write(w io.StringWriter, indent string) {
	for _, op := range b.ops {
		op.write(w, indent)
	}
}

// write writes one operation: %r = "name"(%a, %b) ({regions}) {attributes} : (types) -> (types).
func (op *operation) write(w io.StringWriter, indent string) {
	put := func(format string, args ...any) { _, _ = w.WriteString(fmt.Sprintf(format, args...)) }
	put("%s", indent)
	if len(op.out) > 0 {
		put("%s = ", refs(op.out))
	}
	put("%q(%s)", op.name, refs(op.in))
	for i, r := range op.regions {
		put("%s\n%s^bb0(", []string{" ({", ", {"}[min(i, 1)], indent)
		for j, a := range r.args {
			put("%s%s: %v", []string{"", ", "}[min(j, 1)], a.ref(), a.Type)
		}
		put("):\n")
		r.write(w, indent+"  ")
		put("%s}", indent)
	}
	if len(op.regions) > 0 {
		put(")")
	}
	for i, a := range op.attributes {
		put("%s%s = %s", []string{" {", ", "}[min(i, 1)], a.name, a.value)
	}
	if len(op.attributes) > 0 {
		put("}")
	}
	put(" : %s -> %s\n", tuple(types(op.in)), tuple(types(op.out)))
}

// quote writes a string attribute.
func quote(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, c := range []byte(s) {
		if c == '"' || c == '\\' || c < ' ' || c > '~' {
			fmt.Fprintf(&out, `\%02X`, c)
		} else {
			out.WriteByte(c)
		}
	}
	out.WriteByte('"')
	return out.String()
}

// symbol makes a name of letters, digits and underscores.
func symbol(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, name)
}
