package xlatest

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/surmise-ml/surmise/trainer/xla/hlo"
)

// module is a parsed text.
type module struct {
	body    *block
	donated map[int]int // argument -> result
	results []hlo.Type
}

// block is a function's body or a region.
type block struct {
	args []argument
	ops  []*operation
}

type argument struct {
	name string
	t    hlo.Type
}

type operation struct {
	name              string
	in, out           []string
	regions           []*block
	attributes        map[string]string // as written
	inTypes, outTypes []hlo.Type
}

// parser reads the generic form of MLIR, as far as package hlo writes it.
type parser struct {
	text string
	at   int
}

// parse reads a module with one function, main.
func parse(text string) (m *module, err error) {
	p := &parser{text: text}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(syntaxError)
			if !ok {
				panic(r)
			}
			m, err = nil, e
		}
	}()
	p.want("module")
	p.want("@")
	p.word()
	p.want("{")
	p.want("func.func")
	p.want("public")
	p.want("@main")
	m = &module{body: &block{}, donated: map[int]int{}}
	p.want("(")
	for !p.take(")") {
		if len(m.body.args) > 0 {
			p.want(",")
		}
		m.body.args = append(m.body.args, p.argument())
		if p.take("{") {
			p.want("tf.aliasing_output")
			p.want("=")
			m.donated[len(m.body.args)-1] = p.number()
			p.want(":")
			p.want("i32")
			p.want("}")
		}
	}
	p.want("->")
	m.results = p.types()
	p.want("{")
	p.operations(m.body)
	p.want("}")
	p.want("}")
	if p.space(); p.at != len(p.text) {
		p.fail("text after the module")
	}
	return m, nil
}

type syntaxError string

func (e syntaxError) Error() string { return string(e) }

func (p *parser) fail(format string, args ...any) {
	line := 1 + strings.Count(p.text[:p.at], "\n")
	panic(syntaxError(fmt.Sprintf("line %d: %s", line, fmt.Sprintf(format, args...))))
}

func (p *parser) space() {
	for p.at < len(p.text) && strings.ContainsRune(" \n\t", rune(p.text[p.at])) {
		p.at++
	}
}

// take skips a token if it comes next.
func (p *parser) take(token string) bool {
	p.space()
	if !strings.HasPrefix(p.text[p.at:], token) {
		return false
	}
	p.at += len(token)
	return true
}

func (p *parser) want(token string) {
	if !p.take(token) {
		p.fail("want %q at %.40q", token, p.text[p.at:])
	}
}

// until returns what comes before the first of the given bytes.
func (p *parser) until(stop string) string {
	p.space()
	n := strings.IndexAny(p.text[p.at:], stop)
	if n < 0 {
		p.fail("want one of %q", stop)
	}
	s := p.text[p.at : p.at+n]
	p.at += n
	return s
}

func (p *parser) word() string {
	s := p.until(" ,:){}=(>\n")
	if s == "" {
		p.fail("want a word at %.40q", p.text[p.at:])
	}
	return s
}

func (p *parser) number() int {
	n, err := strconv.Atoi(p.word())
	if err != nil {
		p.fail("%v", err)
	}
	return n
}

func (p *parser) argument() argument {
	name := p.word()
	p.want(":")
	return argument{name, p.tensor()}
}

func (p *parser) tensor() hlo.Type {
	p.want("tensor<")
	parts := strings.Split(p.until(">"), "x")
	p.want(">")
	t := hlo.Type{DType: hlo.DType(parts[len(parts)-1])}
	for _, s := range parts[:len(parts)-1] {
		n, err := strconv.Atoi(s)
		if err != nil {
			p.fail("%v", err)
		}
		t.Dims = append(t.Dims, n)
	}
	return t
}

func (p *parser) types() (out []hlo.Type) {
	p.want("(")
	for !p.take(")") {
		if len(out) > 0 {
			p.want(",")
		}
		out = append(out, p.tensor())
	}
	return out
}

// names reads comma-separated value names up to the closing token, which it takes.
func (p *parser) names(end string) (out []string) {
	for !p.take(end) {
		if len(out) > 0 {
			p.want(",")
		}
		out = append(out, p.word())
	}
	return out
}

func (p *parser) operations(b *block) {
	for {
		if p.space(); strings.HasPrefix(p.text[p.at:], "}") {
			return
		}
		b.ops = append(b.ops, p.operation())
	}
}

func (p *parser) operation() *operation {
	op := &operation{attributes: map[string]string{}}
	if p.space(); p.text[p.at] == '%' {
		op.out = p.names("=")
	}
	p.want(`"`)
	op.name = p.until(`"`)
	p.want(`"`)
	p.want("(")
	op.in = p.names(")")
	if p.take("({") {
		op.regions = append(op.regions, p.region())
		for p.take(",") {
			p.want("{")
			op.regions = append(op.regions, p.region())
		}
		p.want(")")
	}
	if p.take("{") {
		for !p.take("}") {
			if len(op.attributes) > 0 {
				p.want(",")
			}
			name := p.word()
			p.want("=")
			op.attributes[name] = p.attribute()
		}
	}
	p.want(":")
	op.inTypes = p.types()
	p.want("->")
	op.outTypes = p.types()
	if len(op.inTypes) != len(op.in) || len(op.outTypes) != len(op.out) {
		p.fail("%s: %d inputs of %d types, %d results of %d types", op.name, len(op.in), len(op.inTypes), len(op.out), len(op.outTypes))
	}
	return op
}

func (p *parser) region() *block {
	b := &block{}
	p.want("^bb0")
	p.want("(")
	for !p.take(")") {
		if len(b.args) > 0 {
			p.want(",")
		}
		b.args = append(b.args, p.argument())
	}
	p.want(":")
	p.operations(b)
	p.want("}")
	return b
}

// attribute reads a value up to the comma or brace that ends it.
func (p *parser) attribute() string {
	p.space()
	from, depth := p.at, 0
	for ; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at += 1 + strings.IndexByte(p.text[p.at+1:], '"')
		case strings.IndexByte("([{<", c) >= 0:
			depth++
		case depth == 0 && (c == ',' || c == '}'):
			return strings.TrimSpace(p.text[from:p.at])
		case strings.IndexByte(")]}>", c) >= 0:
			depth--
		}
	}
	p.fail("an attribute has no end")
	return ""
}
