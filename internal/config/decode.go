package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile bounds what is parsed, in octets.
const maxFile = 1 << 20

// problem is something wrong at a place of the file.
type problem struct {
	line, column int
	text         string
}

func (p *problem) Error() string {
	if p.line == 0 {
		return p.text
	}
	return fmt.Sprintf("%d:%d: %s", p.line, p.column, p.text)
}

// decode reads a document over what config holds already.
func decode(text []byte, config *Config) error { return Decode(text, config) }

// Decode reads a document into the struct that into points to, whose fields are
// named by their yaml tags. It is strict: an unknown or repeated key, a value
// of the wrong kind, a key without a value, a second document, an anchor, alias
// or tag is an error with line and column. A field may be a section, a single
// value, or a list of single values. The parser has panicked on odd input; that
// is an error too.
func Decode(text []byte, into any) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("not readable as YAML")
		}
	}()
	if len(text) > maxFile {
		return fmt.Errorf("more than %d octets", maxFile)
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return syntax(err)
	}
	var root ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if root != nil {
			return at(doc.Body, "a second document; there must be one only")
		}
		root = doc.Body
	}
	if root == nil {
		return nil
	}
	return decodeStruct(root, "", reflect.ValueOf(into).Elem())
}

func decodeStruct(node ast.Node, path string, into reflect.Value) error {
	mapping, ok := node.(ast.MapNode)
	if !ok {
		return at(node, "%smust hold keys and values", prefix(path))
	}
	fields := fieldsOf(into)
	seen := map[string]bool{}
	for entries := mapping.MapRange(); entries.Next(); {
		keyNode := entries.Key()
		name := keyNode.GetToken().Value
		key := join(path, name)
		field, ok := fields[name]
		switch {
		case !ok:
			return at(keyNode, "unknown key %.80q", key)
		case seen[name]:
			return at(keyNode, "key %s is there twice", key)
		}
		seen[name] = true
		if err := decodeValue(entries.Value(), key, field); err != nil {
			return err
		}
	}
	return nil
}

func decodeValue(node ast.Node, key string, into reflect.Value) error {
	if node == nil || node.Type() == ast.NullType {
		return at(node, "%s: has no value", key)
	}
	switch {
	case isSection(into):
		return decodeStruct(node, key, into)
	case into.Kind() == reflect.Slice:
		return decodeList(node, key, into)
	}
	text, ok := scalar(node)
	if !ok {
		return at(node, "%s: must be a single value", key)
	}
	if err := set(into, text); err != nil {
		return at(node, "%s: %v", key, err)
	}
	return nil
}

func decodeList(node ast.Node, key string, into reflect.Value) error {
	sequence, ok := node.(*ast.SequenceNode)
	if !ok {
		return at(node, "%s: must be a list", key)
	}
	list := reflect.MakeSlice(into.Type(), len(sequence.Values), len(sequence.Values))
	for i, entry := range sequence.Values {
		text, ok := scalar(entry)
		if !ok {
			return at(entry, "%s: must be a list of single values", key)
		}
		if err := set(list.Index(i), text); err != nil {
			return at(entry, "%s: %v", key, err)
		}
	}
	into.Set(list)
	return nil
}

// scalar returns the text of a plain or quoted value.
func scalar(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// set reads a text into a field.
func set(field reflect.Value, text string) error {
	if into, ok := field.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return into.UnmarshalText([]byte(text))
	}
	if into, ok := field.Addr().Interface().(*time.Duration); ok {
		d, err := ParseDuration(text)
		*into = d
		return err
	}
	switch field.Kind() {
	case reflect.String:
		field.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return errors.New("must be true or false")
		}
		field.SetBool(text == "true")
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return errors.New("must be a whole number")
		}
		field.SetInt(int64(n))
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return errors.New("must be a number")
		}
		field.SetFloat(n)
	case reflect.Slice:
		entries := splitList(text)
		list := reflect.MakeSlice(field.Type(), len(entries), len(entries))
		for i, entry := range entries {
			if err := set(list.Index(i), entry); err != nil {
				return err
			}
		}
		field.Set(list)
	default:
		return fmt.Errorf("a field of kind %s cannot be configured", field.Kind())
	}
	return nil
}

// ParseDuration reads a duration as time.ParseDuration does, or a whole number
// of days, such as 30d.
func ParseDuration(text string) (time.Duration, error) {
	const most = 100 * 365
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n <= most {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, errors.New("must be a duration with its unit, such as 90s, 15m, 168h or 30d")
	}
	return d, nil
}

// splitList reads a list as it stands in an environment variable: separated
// by commas.
func splitList(text string) []string {
	list := []string{}
	for entry := range strings.SplitSeq(text, ",") {
		if entry = strings.TrimSpace(entry); entry != "" {
			list = append(list, entry)
		}
	}
	return list
}

// isSection reports whether a field holds further keys.
func isSection(field reflect.Value) bool {
	_, leaf := field.Addr().Interface().(encoding.TextUnmarshaler)
	return field.Kind() == reflect.Struct && !leaf
}

// fieldsOf returns the fields of a section by their keys.
func fieldsOf(section reflect.Value) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	for i := range section.NumField() {
		fields[section.Type().Field(i).Tag.Get("yaml")] = section.Field(i)
	}
	return fields
}

// leaves returns every single setting by its dotted key.
func leaves(config *Config) map[string]reflect.Value {
	all := map[string]reflect.Value{}
	collect("", reflect.ValueOf(config).Elem(), all)
	return all
}

func collect(path string, section reflect.Value, all map[string]reflect.Value) {
	for name, field := range fieldsOf(section) {
		if isSection(field) {
			collect(join(path, name), field, all)
			continue
		}
		all[join(path, name)] = field
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func prefix(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}

func at(node ast.Node, format string, args ...any) error {
	p := &problem{text: fmt.Sprintf(format, args...)}
	if node != nil && node.GetToken() != nil && node.GetToken().Position != nil {
		p.line, p.column = node.GetToken().Position.Line, node.GetToken().Position.Column
	}
	return p
}

// syntax keeps the place and the first line of what the parser says, not its
// excerpt of the file.
func syntax(err error) error {
	p := &problem{text: "not readable as YAML"}
	var located yaml.Error
	if errors.As(err, &located) {
		p.text, _, _ = strings.Cut(located.GetMessage(), "\n")
		if token := located.GetToken(); token != nil && token.Position != nil {
			p.line, p.column = token.Position.Line, token.Position.Column
		}
	}
	return p
}
