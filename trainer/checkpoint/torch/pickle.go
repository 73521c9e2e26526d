package torch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Opcodes of pickle, protocols 0 to 5 (https://docs.python.org/3/library/pickletools.html), those that build data.
const (
	opMark, opStop, opPop, opPopMark, opDup                             = '(', '.', '0', '1', '2'
	opFloat, opInt, opBinInt, opBinInt1, opBinInt2, opLong              = 'F', 'I', 'J', 'K', 'M', 'L'
	opNone, opPersID, opBinPersID, opReduce, opString, opBinString      = 'N', 'P', 'Q', 'R', 'S', 'T'
	opShortBinString, opUnicode, opBinUnicode, opAppend, opBuild        = 'U', 'V', 'X', 'a', 'b'
	opGlobal, opDict, opAppends, opGet, opBinGet, opLongBinGet          = 'c', 'd', 'e', 'g', 'h', 'j'
	opList, opPut, opBinPut, opLongBinPut, opSetItem, opTuple           = 'l', 'p', 'q', 'r', 's', 't'
	opEmptyTuple, opSetItems, opEmptyDict, opEmptyList, opBinFloat      = ')', 'u', '}', ']', 'G'
	opBinBytes, opShortBinBytes                                         = 'B', 'C'
	opProto, opNewObj, opTuple1, opTuple2, opTuple3, opTrue, opFalse    = 0x80, 0x81, 0x85, 0x86, 0x87, 0x88, 0x89
	opLong1, opLong4, opShortBinUnicode, opBinUnicode8, opBinBytes8     = 0x8a, 0x8b, 0x8c, 0x8d, 0x8e
	opEmptySet, opAddItems, opFrozenSet, opStackGlobal, opMemo, opFrame = 0x8f, 0x90, 0x91, 0x93, 0x94, 0x95
)

// refused are opcodes that make objects of any class, run code, or reach outside the pickle.
var refused = map[byte]string{'i': "INST", 'o': "OBJ", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x92: "NEWOBJ_EX", 0x96: "BYTEARRAY8",
	0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER"}

// The names of Python that a checkpoint may use. Storage types (torch FloatStorage, …) come on top.
const (
	orderedDict      = "collections OrderedDict"
	rebuildTensor    = "torch._utils _rebuild_tensor"
	rebuildTensorV2  = "torch._utils _rebuild_tensor_v2"
	rebuildParameter = "torch._utils _rebuild_parameter"
	torchSize        = "torch Size"
)

// NotAllowed is the error for a name of Python that is not on the list.
type NotAllowed struct{ Name string } // module and name, with a space between

func (e *NotAllowed) Error() string {
	return fmt.Sprintf("the pickle wants %q, which is not among the names that are allowed: it was not looked up, and nothing was run", clip(e.Name))
}

const (
	maxOps      = 2 << 20
	maxLong     = 64 // bytes
	maxLineText = 4096
)

// machine builds the value of one pickle. It keeps a stack and a memo, as the format asks.
type machine struct {
	data    []byte
	at      int
	stack   []Value
	marks   []int // heights of the stack at each MARK
	memo    map[uint32]Value
	storage func(key string, of DType, n int64) (*storage, error)
	held    map[string]*storage
	copied  int // entries of dicts made of lists
}

// run decodes one pickle from the front of data; at is then the byte behind it.
func (m *machine) run() (Value, error) {
	m.memo, m.held = map[uint32]Value{}, map[string]*storage{}
	for range maxOps {
		start := m.at
		op, err := m.take(1)
		if err != nil {
			return nil, err
		}
		if op[0] == opStop {
			v, err := m.pop()
			if err == nil && len(m.stack)+len(m.marks) > 0 {
				err = fmt.Errorf("%d values are left on the stack", len(m.stack))
			}
			if _, name := v.(global); err == nil && name {
				err = fmt.Errorf("the value is the name %s", describe(v))
			}
			return v, err
		}
		if err := m.step(op[0]); err != nil {
			return nil, fmt.Errorf("opcode %q at byte %d: %w", op[0], start, err)
		}
	}
	return nil, fmt.Errorf("more than %d opcodes", maxOps)
}

func (m *machine) take(n uint64) ([]byte, error) {
	if n > uint64(len(m.data)-m.at) {
		return nil, fmt.Errorf("%d bytes wanted at byte %d, %d are left: it is cut short", n, m.at, len(m.data)-m.at)
	}
	b := m.data[m.at : m.at+int(n) : m.at+int(n)]
	m.at += int(n)
	return b, nil
}

// number takes a little-endian unsigned number of width bytes.
func (m *machine) number(width int) (uint64, error) {
	b, err := m.take(uint64(width))
	if err != nil {
		return 0, err
	}
	var full [8]byte
	copy(full[:], b)
	return binary.LittleEndian.Uint64(full[:]), nil
}

// counted takes a length of width bytes and as many bytes.
func (m *machine) counted(width int) ([]byte, error) {
	n, err := m.number(width)
	if err != nil {
		return nil, err
	}
	return m.take(n)
}

// line takes text up to the end of the line.
func (m *machine) line() (string, error) {
	rest := m.data[m.at:min(len(m.data), m.at+maxLineText)]
	n := bytes.IndexByte(rest, '\n')
	if n < 0 {
		return "", errors.New("a line without an end")
	}
	m.at += n + 1
	return string(rest[:n]), nil
}

func (m *machine) push(v Value) { m.stack = append(m.stack, v) }

// floor is the height that values may be taken down to.
func (m *machine) floor() int {
	if len(m.marks) == 0 {
		return 0
	}
	return m.marks[len(m.marks)-1]
}

func (m *machine) pop() (Value, error) {
	if len(m.stack) <= m.floor() {
		return nil, errors.New("the stack is empty")
	}
	v := m.stack[len(m.stack)-1]
	m.stack = m.stack[:len(m.stack)-1]
	return v, nil
}

func (m *machine) top() (Value, error) {
	if len(m.stack) <= m.floor() {
		return nil, errors.New("the stack is empty")
	}
	return m.stack[len(m.stack)-1], nil
}

// sinceMark takes all values above the last mark, and the mark.
func (m *machine) sinceMark() ([]Value, error) {
	if len(m.marks) == 0 {
		return nil, errors.New("there is no mark")
	}
	first := m.floor()
	out := append([]Value(nil), m.stack[first:]...)
	m.stack, m.marks = m.stack[:first], m.marks[:len(m.marks)-1]
	return out, nil
}

func (m *machine) popN(n int) ([]Value, error) {
	if len(m.stack)-m.floor() < n {
		return nil, errors.New("the stack is empty")
	}
	out := append([]Value(nil), m.stack[len(m.stack)-n:]...)
	m.stack = m.stack[:len(m.stack)-n]
	return out, nil
}

func (m *machine) remember(key uint64, err error) error {
	if err != nil {
		return err
	}
	v, err := m.top()
	if err != nil {
		return err
	}
	if key > math.MaxUint32 {
		return fmt.Errorf("memo %d", key)
	}
	m.memo[uint32(key)] = v
	return nil
}

func (m *machine) recall(key uint64, err error) error {
	if err != nil {
		return err
	}
	v, ok := m.memo[uint32(key)]
	if !ok || key > math.MaxUint32 {
		return fmt.Errorf("memo %d was never filled", key)
	}
	m.push(v)
	return nil
}

// step does one opcode.
func (m *machine) step(op byte) error {
	switch op {
	case opProto:
		v, err := m.number(1)
		if err == nil && v > 5 {
			err = fmt.Errorf("protocol %d", v)
		}
		return err
	case opFrame:
		_, err := m.number(8)
		return err
	case opMark:
		m.marks = append(m.marks, len(m.stack))
	case opPop:
		if len(m.marks) > 0 && m.floor() == len(m.stack) {
			m.marks = m.marks[:len(m.marks)-1]
			return nil
		}
		_, err := m.pop()
		return err
	case opPopMark:
		_, err := m.sinceMark()
		return err
	case opDup:
		v, err := m.top()
		if err != nil {
			return err
		}
		m.push(v)
	case opNone:
		m.push(None{})
	case opTrue, opFalse:
		m.push(Bool(op == opTrue))
	case opInt, opLong, opFloat, opBinInt, opBinInt1, opBinInt2, opLong1, opLong4, opBinFloat:
		return m.numeral(op)
	case opString, opUnicode, opBinString, opShortBinString, opBinUnicode, opShortBinUnicode, opBinUnicode8, opBinBytes, opShortBinBytes, opBinBytes8:
		return m.text(op)
	case opEmptyList, opList, opAppend, opAppends, opEmptyTuple, opTuple, opTuple1, opTuple2, opTuple3,
		opEmptyDict, opDict, opSetItem, opSetItems, opEmptySet, opFrozenSet, opAddItems:
		return m.container(op)
	case opGet, opPut:
		s, err := m.line()
		if err != nil {
			return err
		}
		key, err := strconv.ParseUint(s, 10, 32)
		if op == opGet {
			return m.recall(key, err)
		}
		return m.remember(key, err)
	case opBinGet:
		return m.recall(m.number(1))
	case opLongBinGet:
		return m.recall(m.number(4))
	case opBinPut:
		return m.remember(m.number(1))
	case opLongBinPut:
		return m.remember(m.number(4))
	case opMemo:
		return m.remember(uint64(len(m.memo)), nil)
	case opGlobal:
		module, err := m.line()
		if err != nil {
			return err
		}
		name, err := m.line()
		if err != nil {
			return err
		}
		return m.global(module + " " + name)
	case opStackGlobal:
		v, err := m.popN(2)
		if err != nil {
			return err
		}
		module, ok1 := v[0].(String)
		name, ok2 := v[1].(String)
		if !ok1 || !ok2 {
			return fmt.Errorf("a name made of %s and %s", describe(v[0]), describe(v[1]))
		}
		return m.global(string(module) + " " + string(name))
	case opReduce, opNewObj:
		v, err := m.popN(2)
		if err != nil {
			return err
		}
		return m.call(v[0], v[1])
	case opBuild:
		return m.build()
	case opBinPersID:
		v, err := m.pop()
		if err != nil {
			return err
		}
		return m.persistent(v)
	default:
		if name := refused[op]; name != "" {
			return fmt.Errorf("%s is refused: no checkpoint needs it", name)
		}
		return errors.New("not an opcode that checkpoints are made of")
	}
	return nil
}

func (m *machine) numeral(op byte) error {
	switch op {
	case opInt, opLong, opFloat:
		s, err := m.line()
		if err != nil {
			return err
		}
		switch {
		case op == opInt && (s == "00" || s == "01"):
			m.push(Bool(s == "01"))
			return nil
		case op == opFloat:
			v, err := strconv.ParseFloat(s, 64)
			if err != nil {
				return err
			}
			m.push(Float(v))
			return nil
		}
		v, err := strconv.ParseInt(strings.TrimSuffix(s, "L"), 10, 64)
		if err != nil {
			return err
		}
		m.push(Int(v))
	case opBinInt, opBinInt1, opBinInt2:
		v, err := m.number(map[byte]int{opBinInt: 4, opBinInt1: 1, opBinInt2: 2}[op])
		if err != nil {
			return err
		}
		if op == opBinInt {
			v = uint64(int64(int32(v)))
		}
		m.push(Int(v))
	case opLong1, opLong4:
		b, err := m.counted(map[byte]int{opLong1: 1, opLong4: 4}[op])
		if err != nil {
			return err
		}
		switch {
		case len(b) > maxLong:
			return fmt.Errorf("an integer of %d bytes, at most %d are read", len(b), maxLong)
		case len(b) > 8:
			m.push(Long(b))
			return nil
		}
		var v uint64
		if len(b) > 0 && b[len(b)-1] >= 0x80 {
			v = math.MaxUint64 << (8 * len(b)) // the sign; a shift by 64 is 0
		}
		for i, x := range b {
			v |= uint64(x) << (8 * i)
		}
		m.push(Int(v))
	case opBinFloat:
		b, err := m.take(8)
		if err != nil {
			return err
		}
		m.push(Float(math.Float64frombits(binary.BigEndian.Uint64(b))))
	}
	return nil
}

func (m *machine) text(op byte) error {
	width := 4
	switch op {
	case opString, opUnicode:
		s, err := m.line()
		if err != nil {
			return err
		}
		if op == opString {
			if len(s) < 2 || s[0] != s[len(s)-1] || s[0] != '\'' && s[0] != '"' || strings.Contains(s, `\`) {
				return fmt.Errorf("text %q: not in quotes, or with escapes", clip(s))
			}
			s = s[1 : len(s)-1]
		}
		m.push(String(s))
		return nil
	case opShortBinString, opShortBinUnicode, opShortBinBytes:
		width = 1
	case opBinUnicode8, opBinBytes8:
		width = 8
	}
	b, err := m.counted(width)
	if err != nil {
		return err
	}
	switch op {
	case opBinBytes, opShortBinBytes, opBinBytes8:
		m.push(Bytes(b))
	default:
		m.push(String(b))
	}
	return nil
}

func (m *machine) container(op byte) error {
	var items []Value
	var err error
	switch op {
	case opEmptyList:
		m.push(&List{})
		return nil
	case opEmptyTuple:
		m.push(&Tuple{})
		return nil
	case opEmptyDict:
		m.push(&Dict{})
		return nil
	case opEmptySet:
		m.push(&Set{})
		return nil
	case opAppend, opTuple1:
		items, err = m.popN(1)
	case opTuple2, opSetItem:
		items, err = m.popN(2)
	case opTuple3:
		items, err = m.popN(3)
	default:
		items, err = m.sinceMark()
	}
	if err != nil {
		return err
	}
	switch op {
	case opTuple, opTuple1, opTuple2, opTuple3:
		m.push(&Tuple{items})
	case opList:
		m.push(&List{items})
	case opFrozenSet:
		m.push(&Set{items})
	case opDict:
		d := &Dict{}
		m.push(d)
		return fill(d, items)
	default:
		v, err := m.top()
		if err != nil {
			return err
		}
		return fill(v, items)
	}
	return nil
}

// fill adds items to a container: keys and values in turn to a dict.
func fill(v Value, items []Value) error {
	switch v := v.(type) {
	case *List:
		v.Items = append(v.Items, items...)
	case *Set:
		v.Items = append(v.Items, items...)
	case *Dict:
		if len(items)%2 != 0 {
			return errors.New("a key without a value")
		}
		for i := 0; i < len(items); i += 2 {
			v.set(items[i], items[i+1])
		}
	default:
		return fmt.Errorf("items for %s, want a list, dict or set", describe(v))
	}
	return nil
}

func (m *machine) global(name string) error {
	switch name {
	case orderedDict, rebuildTensor, rebuildTensorV2, rebuildParameter, torchSize:
	default:
		module, kind, _ := strings.Cut(name, " ")
		if _, ok := storageTypes[kind]; !ok || module != "torch" && module != "torch.storage" && module != "torch.cuda" {
			return &NotAllowed{name}
		}
	}
	m.push(global{name})
	return nil
}

// call is what REDUCE and NEWOBJ do for the few names there are.
func (m *machine) call(f, args Value) error {
	name, ok := f.(global)
	a, ok2 := args.(*Tuple)
	if !ok || !ok2 {
		return fmt.Errorf("a call of %s with %s", describe(f), describe(args))
	}
	var v Value
	var err error
	switch name.name {
	case orderedDict:
		v, err = m.newOrderedDict(a.Items)
	case torchSize:
		if len(a.Items) != 1 {
			err = fmt.Errorf("%d arguments, want 1", len(a.Items))
		} else if t, ok := a.Items[0].(*Tuple); ok {
			v = t
		} else {
			err = fmt.Errorf("%s, want a tuple", describe(a.Items[0]))
		}
	case rebuildParameter:
		if len(a.Items) < 1 {
			err = errors.New("no arguments")
		} else if t, ok := a.Items[0].(*Tensor); ok {
			v = t
		} else {
			err = fmt.Errorf("%s, want a tensor", describe(a.Items[0]))
		}
	case rebuildTensor, rebuildTensorV2:
		v, err = view(a.Items)
	default:
		err = errors.New("a storage type is no function")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name.name, err)
	}
	m.push(v)
	return nil
}

// newOrderedDict is an empty one, or one of a list of pairs, as old versions of Python write it.
func (m *machine) newOrderedDict(args []Value) (*Dict, error) {
	d := &Dict{}
	if len(args) == 0 {
		return d, nil
	}
	list, ok := args[0].(*List)
	if !ok || len(args) > 1 {
		return nil, fmt.Errorf("made of %s, want a list of pairs", describe(args[0]))
	}
	if m.copied += len(list.Items); m.copied > maxOps { // one list may be named again and again
		return nil, fmt.Errorf("more than %d entries in all", maxOps)
	}
	for _, item := range list.Items {
		var pair []Value
		switch item := item.(type) {
		case *Tuple:
			pair = item.Items
		case *List:
			pair = item.Items
		}
		if len(pair) != 2 {
			return nil, fmt.Errorf("%s in its list, want a pair", describe(item))
		}
		d.set(pair[0], pair[1])
	}
	return d, nil
}

// view is a tensor from (storage, offset, shape, strides, …); what follows is for training and is dropped.
func view(args []Value) (*Tensor, error) {
	if len(args) < 4 {
		return nil, fmt.Errorf("%d arguments, want at least 4", len(args))
	}
	s, ok := args[0].(*storage)
	offset, ok2 := args[1].(Int)
	if !ok || !ok2 {
		return nil, fmt.Errorf("a tensor of %s at %s", describe(args[0]), describe(args[1]))
	}
	shape, err := integers(args[2])
	if err != nil {
		return nil, fmt.Errorf("shape: %w", err)
	}
	strides, err := integers(args[3])
	if err != nil {
		return nil, fmt.Errorf("strides: %w", err)
	}
	return newTensor(s, int64(offset), shape, strides)
}

func integers(v Value) ([]int64, error) {
	t, ok := v.(*Tuple)
	if !ok {
		return nil, fmt.Errorf("%s, want a tuple", describe(v))
	}
	if len(t.Items) > maxRank {
		return nil, fmt.Errorf("%d dimensions, at most %d are read", len(t.Items), maxRank)
	}
	out := make([]int64, len(t.Items))
	for i, item := range t.Items {
		n, ok := item.(Int)
		if !ok {
			return nil, fmt.Errorf("%s among integers", describe(item))
		}
		out[i] = int64(n)
	}
	return out, nil
}

// build sets attributes. Only state dicts have any (_metadata, versions of modules), and none is needed.
func (m *machine) build() error {
	if _, err := m.pop(); err != nil {
		return err
	}
	v, err := m.top()
	if err != nil {
		return err
	}
	if _, ok := v.(*Dict); !ok {
		return fmt.Errorf("attributes of %s, want a dict", describe(v))
	}
	return nil
}

// persistent is a reference to a storage: ("storage", type, key, device, numbers), and None or nothing behind.
func (m *machine) persistent(v Value) error {
	t, ok := v.(*Tuple)
	if !ok || len(t.Items) < 5 || t.Items[0] != String("storage") {
		return fmt.Errorf("a reference to %s outside the pickle, want a storage", describe(v))
	}
	if len(t.Items) > 6 || len(t.Items) == 6 && t.Items[5] != (None{}) {
		return errors.New("a storage inside another, as PyTorch before 0.4 wrote them, is not supported")
	}
	kind, ok1 := t.Items[1].(global)
	key, ok2 := t.Items[2].(String)
	n, ok3 := t.Items[4].(Int)
	_, name, _ := strings.Cut(kind.name, " ")
	of, known := storageTypes[name]
	if !ok1 || !ok2 || !ok3 || !known || n < 0 || int64(n) > math.MaxInt64/8 {
		return fmt.Errorf("a storage of %s %s with key %s", describe(t.Items[4]), describe(t.Items[1]), describe(t.Items[2]))
	}
	s := m.held[string(key)]
	if s == nil || s.of != of || s.n != int64(n) {
		var err error
		if s, err = m.storage(string(key), of, int64(n)); err != nil {
			return fmt.Errorf("storage %q: %w", clip(string(key)), err)
		}
		m.held[string(key)] = s
	}
	m.push(s)
	return nil
}
