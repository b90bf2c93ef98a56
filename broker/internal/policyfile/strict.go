package policyfile

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// converter writes a YAML tree as the JSON of a Go type. It knows the type, so it refuses what the type has no place for,
// and takes a text for a text whatever YAML would make of it: 1.10 as a value is a version, not a number.
type converter struct{ out *strings.Builder }

func (c converter) value(n *yaml.Node, t reflect.Type, depth int) error {
	if depth > maxDepth {
		return at(n, "is nested too deeply")
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return at(n, "uses an anchor; write the value out")
	}
	if t.Kind() == reflect.Pointer {
		if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
			c.out.WriteString("null")
			return nil
		}
		return c.value(n, t.Elem(), depth)
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		return c.text(n)
	case t.Kind() == reflect.Struct:
		return c.object(n, t, depth)
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		return c.table(n, t, depth)
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		return c.list(n, t, depth)
	case n.Kind != yaml.ScalarNode:
		return at(n, "is a list or a mapping where a single value belongs")
	}
	switch t.Kind() {
	case reflect.String, reflect.Slice:
		return c.text(n)
	case reflect.Bool:
		if n.ShortTag() != "!!bool" || n.Value != "true" && n.Value != "false" {
			return at(n, fmt.Sprintf("is %q; write true or false", n.Value))
		}
		c.out.WriteString(n.Value)
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
		if _, err := strconv.ParseInt(n.Value, 10, t.Bits()); err != nil || n.ShortTag() != "!!int" {
			return at(n, fmt.Sprintf("is %q; write a whole number", n.Value))
		}
		c.out.WriteString(strings.TrimPrefix(n.Value, "+"))
	default:
		return at(n, "cannot be written in a file")
	}
	return nil
}

func (c converter) text(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return at(n, "is a list or a mapping where a text belongs")
	}
	switch n.ShortTag() {
	case "!!null":
		if n.Value != "" {
			break // the words null and ~ as a text
		}
		return at(n, `has no value; write "" for an empty text`)
	case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
	default:
		return at(n, "has a tag; write plain YAML")
	}
	b, err := json.Marshal(n.Value)
	c.out.Write(b)
	return err
}

func (c converter) list(n *yaml.Node, t reflect.Type, depth int) error {
	if n.Kind != yaml.SequenceNode {
		return at(n, "is not a list; write [] for an empty one")
	}
	c.out.WriteByte('[')
	for i, item := range n.Content {
		if i > 0 {
			c.out.WriteByte(',')
		}
		if err := c.value(item, t.Elem(), depth+1); err != nil {
			return err
		}
	}
	c.out.WriteByte(']')
	return nil
}

func (c converter) table(n *yaml.Node, t reflect.Type, depth int) error {
	return c.members(n, depth, func(string) (reflect.Type, string) { return t.Elem(), "" })
}

func (c converter) object(n *yaml.Node, t reflect.Type, depth int) error {
	known := membersOf(t)
	return c.members(n, depth, func(name string) (reflect.Type, string) {
		if slices.Contains(absent, name) && t == reflect.TypeFor[Policy]() {
			return nil, fmt.Sprintf("%q belongs to the broker and not into a file; remove the line", name)
		}
		if known[name] == nil {
			return nil, fmt.Sprintf("%q is not known; compare it with keyward-broker policy export", name)
		}
		return known[name], ""
	})
}

func (c converter) members(n *yaml.Node, depth int, typeOf func(name string) (reflect.Type, string)) error {
	if n.Kind != yaml.MappingNode {
		return at(n, "is not a mapping of names to values")
	}
	c.out.WriteByte('{')
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Value == "<<" {
			return at(key, "is not a plain name")
		}
		if seen[key.Value] {
			return at(key, fmt.Sprintf("%q comes twice", key.Value))
		}
		seen[key.Value] = true
		t, wrong := typeOf(key.Value)
		if wrong != "" {
			return at(key, wrong)
		}
		if i > 0 {
			c.out.WriteByte(',')
		}
		b, err := json.Marshal(key.Value)
		if err != nil {
			return err
		}
		c.out.Write(b)
		c.out.WriteByte(':')
		if err := c.value(n.Content[i+1], t, depth+1); err != nil {
			return err
		}
	}
	c.out.WriteByte('}')
	return nil
}

// membersOf are the JSON members of a struct with their types, those of embedded structs too.
func membersOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" && f.IsExported() {
			out[name] = f.Type
		}
	}
	return out
}

// at is what is wrong at a place of the file.
func at(n *yaml.Node, wrong string) error {
	return fmt.Errorf("line %d of the policy file: %s", n.Line, wrong)
}
