package store

import (
	"bytes"
	"compress/flate"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// recording gathers the statements of a transaction as they are carried out. Each
// is its text, once, then its arguments, and how many rows it has changed, by
// which a copy notices that it is not the same.
type recording struct {
	text  bytes.Buffer
	texts map[string]uint64 // by number, from 1
}

// The kinds of arguments.
const (
	argNull = iota
	argInt
	argFloat
	argText
	argBytes
	argTrue
	argFalse
)

func (r *recording) add(text string, args []any, rows int64) error {
	if r.texts == nil {
		r.texts = map[string]uint64{}
	}
	number, known := r.texts[text]
	if !known {
		r.texts[text] = uint64(len(r.texts) + 1)
		r.number(0)
		r.bytes([]byte(text))
	} else {
		r.number(number)
	}
	r.number(uint64(rows))
	r.number(uint64(len(args)))
	for i, arg := range args {
		if err := r.arg(arg); err != nil {
			return fmt.Errorf("argument %d of %.60q: %w", i+1, text, err)
		}
	}
	return nil
}

func (r *recording) arg(arg any) error {
	value, err := driver.DefaultParameterConverter.ConvertValue(arg)
	if err != nil {
		return err
	}
	switch v := value.(type) {
	case nil:
		r.text.WriteByte(argNull)
	case int64:
		r.text.WriteByte(argInt)
		r.text.Write(binary.AppendVarint(nil, v))
	case float64:
		r.text.WriteByte(argFloat)
		r.number(math.Float64bits(v))
	case string:
		r.text.WriteByte(argText)
		r.bytes([]byte(v))
	case []byte:
		if v == nil { // which SQLite is given as NULL
			r.text.WriteByte(argNull)
			return nil
		}
		r.text.WriteByte(argBytes)
		r.bytes(v)
	case bool:
		if v {
			r.text.WriteByte(argTrue)
		} else {
			r.text.WriteByte(argFalse)
		}
	default:
		return fmt.Errorf("a %T is not recorded", v)
	}
	return nil
}

func (r *recording) number(n uint64) { r.text.Write(binary.AppendUvarint(nil, n)) }

func (r *recording) bytes(b []byte) {
	r.number(uint64(len(b)))
	r.text.Write(b)
}

// statements returns what an Entry holds.
func (r *recording) statements() ([]byte, error) {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.DefaultCompression)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(r.text.Bytes())
	err = errors.Join(err, w.Close())
	return out.Bytes(), err
}

// statement is one that was carried out.
type carried struct {
	text string
	args []any
	rows int64
}

// entryReader reads the statements of an entry.
type entryReader struct {
	left  *bytes.Reader
	texts []string
}

var errGarbled = errors.New("an entry of the log cannot be read")

// entryLimit is more than any commit holds, and keeps one that is garbled from
// filling the memory.
const entryLimit = 1 << 30

func openStatements(compressed []byte) (*entryReader, error) {
	r := flate.NewReader(bytes.NewReader(compressed))
	text, err := io.ReadAll(io.LimitReader(r, entryLimit))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("%w: %w", errGarbled, err)
	}
	return &entryReader{left: bytes.NewReader(text)}, nil
}

// next returns io.EOF after the last statement.
func (r *entryReader) next() (s carried, err error) {
	if r.left.Len() == 0 {
		return s, io.EOF
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", errGarbled, err)
		}
	}()
	number, err := binary.ReadUvarint(r.left)
	if err != nil {
		return s, err
	}
	if number == 0 {
		text, err := r.bytes()
		if err != nil {
			return s, err
		}
		r.texts = append(r.texts, string(text))
		number = uint64(len(r.texts))
	}
	if number > uint64(len(r.texts)) {
		return s, errors.New("a statement that is not there")
	}
	s.text = r.texts[number-1]
	rows, err := binary.ReadUvarint(r.left)
	if err != nil {
		return s, err
	}
	s.rows = int64(rows)
	count, err := binary.ReadUvarint(r.left)
	for ; err == nil && count > 0; count-- {
		var arg any
		arg, err = r.arg()
		s.args = append(s.args, arg)
	}
	return s, err
}

func (r *entryReader) arg() (any, error) {
	kind, err := r.left.ReadByte()
	if err != nil {
		return nil, err
	}
	switch kind {
	case argNull:
		return nil, nil
	case argInt:
		return binary.ReadVarint(r.left)
	case argFloat:
		bits, err := binary.ReadUvarint(r.left)
		return math.Float64frombits(bits), err
	case argText:
		text, err := r.bytes()
		return string(text), err
	case argBytes:
		return r.bytes()
	case argTrue, argFalse:
		return kind == argTrue, nil
	}
	return nil, fmt.Errorf("an argument of kind %d", kind)
}

func (r *entryReader) bytes() ([]byte, error) {
	n, err := binary.ReadUvarint(r.left)
	if err != nil {
		return nil, err
	}
	if n > uint64(r.left.Len()) {
		return nil, io.ErrUnexpectedEOF
	}
	text := make([]byte, n)
	_, err = io.ReadFull(r.left, text)
	return text, err
}
