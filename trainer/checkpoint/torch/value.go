package torch

import (
	"fmt"
	"strings"
)

// Value is what a pickle holds: None, Bool, Int, Long, Float, String, Bytes, *Tuple, *List, *Dict, *Set or *Tensor.
// Lists, dicts and tuples can hold each other and themselves.
type Value any

type (
	// None is Python's None.
	None struct{}
	// Bool is a truth value.
	Bool bool
	// Int is an integer of up to 64 bits.
	Int int64
	// Long is a larger integer, two's complement, little-endian.
	Long []byte
	// Float is a number.
	Float float64
	// String is text, as it was in the file.
	String string
	// Bytes is a byte string.
	Bytes []byte
)

// Tuple, List and Set are sequences; the items of a set are in the order of the file.
type (
	Tuple struct{ Items []Value }
	List  struct{ Items []Value }
	Set   struct{ Items []Value }
)

// Dict is a dict or OrderedDict. A key that is given again replaces its value.
type Dict struct {
	Items []Item
	at    map[any]int // of keys that are text or numbers
}

// Item is one entry of a Dict.
type Item struct{ Key, Value Value }

// Get returns the value of a text key; nil if there is none.
func (d *Dict) Get(key string) Value {
	if i, ok := d.at[String(key)]; ok {
		return d.Items[i].Value
	}
	return nil
}

func (d *Dict) set(key, value Value) {
	switch key.(type) {
	case String, Int, Bool, None:
		if i, ok := d.at[key]; ok {
			d.Items[i].Value = value
			return
		}
		if d.at == nil {
			d.at = map[any]int{}
		}
		d.at[key] = len(d.Items)
	}
	d.Items = append(d.Items, Item{key, value})
}

// global is a name of Python that the list of allowed ones has.
type global struct{ name string }

// describe is a value in an error message.
func describe(v Value) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case None:
		return "None"
	case String:
		return fmt.Sprintf("%q", clip(string(v)))
	case Int, Float, Bool:
		return fmt.Sprint(v)
	case *Dict:
		return fmt.Sprintf("a dict of %d", len(v.Items))
	case *Tensor:
		return fmt.Sprintf("a tensor %v", v.Shape)
	case global:
		return v.name
	}
	return "a " + strings.ToLower(strings.TrimPrefix(strings.TrimPrefix(fmt.Sprintf("%T", v), "*"), "torch."))
}

// Describe says in a few words what a value is, for messages.
func Describe(v Value) string { return describe(v) }

// Tensors counts the tensors at and below a value, each once, beside those seen before, to which it adds: values that share
// much are gone through once.
func Tensors(v Value, seen map[Value]bool) int {
	n := 0
	for next := []Value{v}; len(next) > 0; {
		v := next[len(next)-1]
		next = next[:len(next)-1]
		switch v.(type) {
		case *Tensor, *Dict, *List, *Tuple, *Set:
			if seen[v] {
				continue
			}
			seen[v] = true
		}
		switch v := v.(type) {
		case *Tensor:
			n++
		case *Dict:
			for _, item := range v.Items {
				next = append(next, item.Key, item.Value)
			}
		case *List:
			next = append(next, v.Items...)
		case *Tuple:
			next = append(next, v.Items...)
		case *Set:
			next = append(next, v.Items...)
		}
	}
	return n
}
