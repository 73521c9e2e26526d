package tensorboard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// event is what an Event message holds of figures:
//
//	1 wall_time     double, seconds
//	2 step          int64
//	3 file_version  string, of the first event
//	5 summary       1 value: repeated message of 1 tag: string, 2 simple_value: float
type event struct {
	wall    float64
	step    int64
	version string
	values  []value
}

type value struct {
	tag   string
	value float32
}

// Wire types of protocol buffers.
const (
	varint  = 0
	fixed64 = 1
	bytes   = 2
	fixed32 = 5
)

func key(field, wire int) byte { return byte(field<<3 | wire) }

func (e event) append(out []byte) []byte {
	out = append(out, key(1, fixed64))
	out = binary.LittleEndian.AppendUint64(out, math.Float64bits(e.wall))
	if e.step != 0 {
		out = append(out, key(2, varint))
		out = binary.AppendUvarint(out, uint64(e.step))
	}
	if e.version != "" {
		out = appendBytes(out, 3, []byte(e.version))
	}
	if len(e.values) == 0 {
		return out
	}
	var summary []byte
	for _, v := range e.values {
		one := appendBytes(nil, 1, []byte(v.tag))
		one = append(one, key(2, fixed32))
		one = binary.LittleEndian.AppendUint32(one, math.Float32bits(v.value))
		summary = appendBytes(summary, 1, one)
	}
	return appendBytes(out, 5, summary)
}

func appendBytes(out []byte, field int, data []byte) []byte {
	out = append(out, key(field, bytes))
	out = binary.AppendUvarint(out, uint64(len(data)))
	return append(out, data...)
}

func parseEvent(data []byte) (event, error) {
	var e event
	err := fields(data, func(field, wire int, number uint64, text []byte) error {
		switch {
		case field == 1 && wire == fixed64:
			e.wall = math.Float64frombits(number)
		case field == 2 && wire == varint:
			if number > math.MaxInt32 {
				return fmt.Errorf("step %d, want at most %d", int64(number), math.MaxInt32)
			}
			e.step = int64(number)
		case field == 3 && wire == bytes:
			e.version = string(text)
		case field == 5 && wire == bytes:
			return fields(text, func(field, wire int, _ uint64, text []byte) error {
				if field != 1 || wire != bytes {
					return nil
				}
				v, known, err := parseValue(text)
				if known {
					e.values = append(e.values, v)
				}
				return err
			})
		}
		return nil
	})
	return e, err
}

// parseValue reads a Summary.Value; known is false for what is no simple figure.
func parseValue(data []byte) (v value, known bool, err error) {
	err = fields(data, func(field, wire int, number uint64, text []byte) error {
		switch {
		case field == 1 && wire == bytes:
			v.tag = string(text)
		case field == 2 && wire == fixed32:
			v.value, known = math.Float32frombits(uint32(number)), true
		}
		return nil
	})
	return v, known, err
}

var errCutOff = errors.New("a field is cut off")

// fields calls each with every field of a message: its number, its wire type, and a
// number or some bytes.
func fields(data []byte, each func(field, wire int, number uint64, text []byte) error) error {
	for len(data) > 0 {
		k, n := binary.Uvarint(data)
		if n <= 0 || k>>3 == 0 || k>>3 > 1<<29 {
			return errCutOff
		}
		data = data[n:]
		field, wire := int(k>>3), int(k&7)
		var number uint64
		var text []byte
		switch wire {
		case varint:
			if number, n = binary.Uvarint(data); n <= 0 {
				return errCutOff
			}
			data = data[n:]
		case fixed64:
			if len(data) < 8 {
				return errCutOff
			}
			number, data = binary.LittleEndian.Uint64(data), data[8:]
		case fixed32:
			if len(data) < 4 {
				return errCutOff
			}
			number, data = uint64(binary.LittleEndian.Uint32(data)), data[4:]
		case bytes:
			length, n := binary.Uvarint(data)
			if n <= 0 || length > uint64(len(data)-n) {
				return errCutOff
			}
			text, data = data[n:n+int(length)], data[n+int(length):]
		default:
			return fmt.Errorf("field %d has wire type %d", field, wire)
		}
		if err := each(field, wire, number, text); err != nil {
			return err
		}
	}
	return nil
}
