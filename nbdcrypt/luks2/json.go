package luks2

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxDepth is deeper than any LUKS2 object.
const maxDepth = 16

// parseJSON reads one JSON object strictly: names are case-sensitive, a name given twice is refused (parsers disagree on
// which one counts, and a header must mean the same to everybody), nothing may follow, nesting is limited.
func parseJSON(text []byte) (map[string]any, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	value, err := parseValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("text follows the object")
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("not an object")
	}
	return object, nil
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	if depth == maxDepth {
		return nil, errors.New("nested too deeply")
	}
	if delim == '[' {
		list := []any{}
		for dec.More() {
			item, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		_, err := dec.Token()
		return list, err
	}
	object := map[string]any{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		if _, twice := object[name]; twice {
			return nil, fmt.Errorf("the name %.64q is given twice", name)
		}
		if object[name], err = parseValue(dec, depth+1); err != nil {
			return nil, err
		}
	}
	_, err = dec.Token()
	return object, err
}

// node is an object with its path. Its methods return the zero value once an error is kept, so that a parser reads from
// top to bottom and checks once.
type node struct {
	path   string
	fields map[string]any
	err    *error
}

func (n node) at(name string) string {
	if n.path == "" {
		return name
	}
	return n.path + "." + name
}

func (n node) fail(name, format string, args ...any) {
	if *n.err == nil {
		*n.err = badField(n.at(name), format, args...)
	}
}

func (n node) object(name string) node {
	child, ok := n.fields[name].(map[string]any)
	if !ok {
		n.fail(name, "missing or not an object")
	}
	return node{n.at(name), child, n.err}
}

func (n node) text(name string) string {
	s, ok := n.fields[name].(string)
	if !ok {
		n.fail(name, "missing or not a string")
	}
	return s
}

// want fails unless the field is a certain string.
func (n node) want(name, value string) {
	if got := n.text(name); got != value {
		n.fail(name, "%.64q; only %q is accepted", got, value)
	}
}

// cipher reads the name of one of the two ciphers.
func (n node) cipher(name string) string {
	got := n.text(name)
	if got != CipherXTS && got != CipherESSIV {
		n.fail(name, "%.64q; only %q and %q are accepted", got, CipherXTS, CipherESSIV)
	}
	return got
}

// size reads a byte count, which LUKS2 writes as a string because JSON numbers are not 64-bit integers everywhere.
func (n node) size(name string) int64 {
	return int64(n.decimal(name, n.text(name), 1<<62))
}

func (n node) integer(name string) int {
	number, ok := n.fields[name].(json.Number)
	if !ok {
		n.fail(name, "missing or not a number")
		return 0
	}
	return int(n.decimal(name, number.String(), 1<<31-1))
}

// decimal accepts only the shortest form, so that equal numbers are equal texts.
func (n node) decimal(name, text string, most uint64) uint64 {
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil || strconv.FormatUint(v, 10) != text || v > most {
		n.fail(name, "%.64q is not a number from 0 to %d", text, most)
		return 0
	}
	return v
}

func (n node) bytes(name string, length int) []byte {
	b, err := base64.StdEncoding.Strict().DecodeString(n.text(name))
	if err != nil || len(b) != length {
		n.fail(name, "not %d bytes in base64", length)
		return nil
	}
	return b
}

func (n node) strings(name string) []string {
	list, ok := n.fields[name].([]any)
	if !ok {
		n.fail(name, "missing or not an array")
		return nil
	}
	var out []string
	for _, item := range list {
		s, ok := item.(string)
		if !ok {
			n.fail(name, "holds something that is not a string")
		}
		out = append(out, s)
	}
	return out
}

// only fails if the object has any other name: what we do not know could change the meaning of what we do.
func (n node) only(names ...string) {
	for _, name := range sortedNames(n.fields) {
		if !slices.Contains(names, name) {
			n.fail(fmt.Sprintf("%.64s", name), "unknown to this version")
		}
	}
}
