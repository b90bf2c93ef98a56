package httpapi

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// onePass makes a reader of JSON for T that reads and checks in one pass, without the map of everything that huma
// validates first. It accepts less than huma and encoding/json do: no member twice, no name in another case, no null but
// for a list, no text that is not UTF-8. What it accepts they accept too, with the same value, and what it does not
// accept is theirs to judge (direct.go), so it never decides what a refusal says. It panics, when routes are registered,
// for types that it cannot check.
//
// The texts of the result share one copy of the body.
func onePass[T any]() func(body []byte) (T, bool) {
	read := readerOf(reflect.TypeFor[T](), "")
	return func(body []byte) (out T, ok bool) {
		s := scanner{text: string(body)}
		if read(&s, reflect.ValueOf(&out).Elem()) && s.atEnd() {
			return out, true
		}
		var none T
		return none, false
	}
}

// scanner is where a reader is in a text.
type scanner struct {
	text string
	at   int
}

// readInto reads one value; false means that somebody else must look at it.
type readInto func(s *scanner, v reflect.Value) bool

// unchecked are huma's tags that a reader knows nothing of.
var unchecked = []string{"enum", "pattern", "format", "default", "required", "nullable", "multipleOf", "exclusiveMinimum", "exclusiveMaximum", "minItems",
	"maxItems", "uniqueItems", "minProperties", "maxProperties", "dependentRequired", "encoding", "timeFormat", "readOnly", "writeOnly"}

// bounded are the tags that are checked, and of what.
var bounded = map[string][]reflect.Kind{"minLength": {reflect.String}, "maxLength": {reflect.String}, "minimum": {reflect.Int, reflect.Int64}, "maximum": {reflect.Int, reflect.Int64}}

func readerOf(t reflect.Type, tag reflect.StructTag) readInto {
	for _, name := range unchecked {
		if _, ok := tag.Lookup(name); ok {
			panic(fmt.Sprintf("httpapi: %s with %q cannot be read in one pass", t, tag))
		}
	}
	for name, kinds := range bounded {
		if _, ok := tag.Lookup(name); ok && !slices.Contains(kinds, t.Kind()) {
			panic(fmt.Sprintf("httpapi: %s with %q cannot be read in one pass", t, tag))
		}
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		return readTime
	case t.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()),
		t.Implements(reflect.TypeFor[json.Unmarshaler]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		panic(fmt.Sprintf("httpapi: %s reads itself", t))
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return readBytes
	}
	switch t.Kind() {
	case reflect.String:
		return textReader(bound(tag, "minLength", 0), bound(tag, "maxLength", 1<<62))
	case reflect.Int, reflect.Int64:
		return numberReader(bound(tag, "minimum", -1<<62), bound(tag, "maximum", 1<<62))
	case reflect.Bool:
		return readBool
	case reflect.Slice:
		return listReader(readerOf(t.Elem(), ""))
	case reflect.Pointer:
		read := readerOf(t.Elem(), "")
		return func(s *scanner, v reflect.Value) bool {
			v.Set(reflect.New(t.Elem()))
			return read(s, v.Elem())
		}
	case reflect.Struct:
		return objectReader(t)
	case reflect.Map: // rare on these routes
		return func(*scanner, reflect.Value) bool { return false }
	}
	panic(fmt.Sprintf("httpapi: %s cannot be read in one pass", t))
}

func bound(tag reflect.StructTag, name string, otherwise int64) int64 {
	text, ok := tag.Lookup(name)
	if !ok {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("httpapi: tag %s: %v", name, err))
	}
	return n
}

// member is a member of an object.
type member struct {
	name     string
	index    int
	required bool
	read     readInto
}

func objectReader(t reflect.Type) readInto {
	var members []member
	byName := map[string]int{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || !f.IsExported() || name == "" || name == "-" || options != "" && options != "omitempty" {
			panic(fmt.Sprintf("httpapi: field %s of %s cannot be read in one pass", f.Name, t))
		}
		byName[name] = len(members)
		members = append(members, member{name, i, options == "", readerOf(f.Type, f.Tag)})
	}
	if len(members) > 64 {
		panic(fmt.Sprintf("httpapi: %s has too many fields to be read in one pass", t))
	}
	var required uint64
	for i, m := range members {
		if m.required {
			required |= 1 << i
		}
	}
	return func(s *scanner, v reflect.Value) bool {
		var seen uint64
		if !s.take('{') {
			return false
		}
		if s.take('}') {
			return required == 0
		}
		for next := 0; ; {
			name, ok := s.word()
			if !ok || !s.take(':') {
				return false
			}
			// Our agents write members in their order.
			for next < len(members) && members[next].name != name && !members[next].required {
				next++
			}
			if next >= len(members) || members[next].name != name {
				if next, ok = byName[name]; !ok {
					return false
				}
			}
			if seen&(1<<next) != 0 || !members[next].read(s, v.Field(members[next].index)) {
				return false
			}
			seen |= 1 << next
			next++
			if s.take(',') {
				continue
			}
			return s.take('}') && seen&required == required
		}
	}
}

func listReader(read readInto) readInto {
	return func(s *scanner, v reflect.Value) bool {
		if s.literal("null") {
			return true
		}
		if !s.take('[') {
			return false
		}
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		if s.take(']') {
			return true
		}
		for n := 0; ; n++ {
			v.Grow(1)
			v.SetLen(n + 1)
			if !read(s, v.Index(n)) {
				return false
			}
			if s.take(',') {
				continue
			}
			return s.take(']')
		}
	}
}

// textReader reads texts of so many characters.
func textReader(least, most int64) readInto {
	return func(s *scanner, v reflect.Value) bool {
		text, ok := s.string()
		if !ok {
			return false
		}
		if least > 0 || int64(len(text)) > most {
			if n := int64(utf8.RuneCountInString(text)); n < least || n > most {
				return false
			}
		}
		v.SetString(text)
		return true
	}
}

// numberReader reads whole numbers that need no exponent, of at most 15 digits: those are exact in huma's floating point.
func numberReader(least, most int64) readInto {
	return func(s *scanner, v reflect.Value) bool {
		s.space()
		begin := s.at
		if s.at < len(s.text) && s.text[s.at] == '-' {
			s.at++
		}
		digits := s.at
		for s.at < len(s.text) && s.text[s.at] >= '0' && s.text[s.at] <= '9' {
			s.at++
		}
		length := s.at - digits
		if length == 0 || length > 15 || length > 1 && s.text[digits] == '0' {
			return false
		}
		n, err := strconv.ParseInt(s.text[begin:s.at], 10, 64)
		if err != nil || n < least || n > most {
			return false
		}
		v.SetInt(n)
		return true
	}
}

func readBool(s *scanner, v reflect.Value) bool {
	if s.literal("true") {
		v.SetBool(true)
		return true
	}
	return s.literal("false")
}

func readTime(s *scanner, v reflect.Value) bool {
	text, ok := s.word()
	return ok && v.Addr().Interface().(*time.Time).UnmarshalText([]byte(text)) == nil
}

// readBytes reads what is not empty; base64 in the standard alphabet, with padding.
func readBytes(s *scanner, v reflect.Value) bool {
	text, ok := s.word()
	if !ok || text == "" {
		return false
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	v.SetBytes(b)
	return true
}

func (s *scanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

func (s *scanner) atEnd() bool {
	s.space()
	return s.at == len(s.text)
}

// take goes over one character, if it is the next.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
}

func (s *scanner) literal(word string) bool {
	s.space()
	if strings.HasPrefix(s.text[s.at:], word) {
		s.at += len(word)
		return true
	}
	return false
}

// quoted goes over a string and returns what is between its quotes, and whether there are escapes in it.
func (s *scanner) quoted() (text string, escaped, ok bool) {
	if !s.take('"') {
		return "", false, false
	}
	begin, ascii := s.at, true
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			text = s.text[begin:s.at]
			s.at++
			return text, escaped, ascii || utf8.ValidString(text)
		case c == '\\':
			escaped = true
			s.at++
		case c < ' ':
			return "", false, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return "", false, false
}

// word is a string without escapes.
func (s *scanner) word() (string, bool) {
	text, escaped, ok := s.quoted()
	return text, ok && !escaped
}

// string is any string.
func (s *scanner) string() (string, bool) {
	text, escaped, ok := s.quoted()
	if !ok || !escaped {
		return text, ok
	}
	var plain string
	err := json.Unmarshal(slices.Concat([]byte{'"'}, []byte(text), []byte{'"'}), &plain)
	return plain, err == nil
}
