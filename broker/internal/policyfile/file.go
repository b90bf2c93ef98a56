// Package policyfile is policies as files: an account's policies as YAML that people keep in version control, what would
// change if a file were applied, and its application as one transaction.
//
// The form of a policy in a file is that of the people's interface (api.Policy), member by member, so that a member that
// is added there is in files too. Only what a file cannot know is left out: IDs and versions. Images and devices stand
// by their names, with the ID behind where a name is not unique.
package policyfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"keyward/broker/api"
)

// Format is the version of the files that this program writes, and the newest that it reads.
const Format = 1

// Limits of a file. They are far above what an account has, and are checked before anything is allocated by them.
const (
	MaxBytes    = 4 << 20
	MaxPolicies = 1000
	maxDepth    = 16
)

// File is the content of a policy file.
type File struct {
	Format int `json:"format"`
	// Account is the name of the account that the file was exported from. It is for people; a file may be applied elsewhere.
	Account  string   `json:"account,omitempty"`
	Policies []Policy `json:"policies"`
}

// Policy is one policy of a file. Names of policies are unique in an account, so a name says which policy is meant.
type Policy struct {
	api.Policy
	// Images and Devices are references. Left out, the policy's members stay as they are; an empty list means none. The
	// default policy's are computed and stand in no file.
	Images  *[]string `json:"images,omitempty"`
	Devices *[]string `json:"devices,omitempty"`
}

// absent are the members of api.Policy that no file has.
var absent = []string{"id", "version", "image_ids", "device_ids"}

// Encode writes a file, members in the order of the API's documentation.
func Encode(w io.Writer, f File) error {
	root, err := tree(f)
	if err != nil {
		return err
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "policies" {
			for _, p := range root.Content[i+1].Content {
				strip(p)
			}
		}
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(root); err != nil {
		return fmt.Errorf("writing policies as YAML: %w", err)
	}
	return e.Close()
}

// text is one policy as it stands in a file.
func (p Policy) text() (string, error) {
	root, err := tree(p)
	if err != nil {
		return "", err
	}
	strip(root)
	var b strings.Builder
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(root); err != nil {
		return "", fmt.Errorf("writing policy %q as YAML: %w", p.Name, err)
	}
	return b.String(), e.Close()
}

// tree is a value's JSON as a YAML tree, in the order of its members.
func tree(v any) (*yaml.Node, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("writing policies: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return node(d)
}

// node reads one JSON value.
func node(d *json.Decoder) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch v := token.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		if v == '{' {
			n = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		}
		for d.More() { // names of members come as values of their own
			child, err := node(d)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		if n.Kind == yaml.MappingNode {
			n.Content = withoutNull(n.Content)
		}
		_, err := d.Token()
		return n, err
	case string:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v, Style: styleOf(v)}, nil
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(v.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(v)}, nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
}

// styleOf quotes texts that the block style of the library does not give back as they were: with tabs and other
// characters that do not print, and lines that begin or end with space.
func styleOf(text string) yaml.Style {
	odd := strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
	for line := range strings.SplitSeq(text, "\n") {
		odd = odd || strings.TrimSpace(line) != line || line == "" && strings.Contains(text, "\n")
	}
	if odd {
		return yaml.DoubleQuotedStyle
	}
	return 0
}

// withoutNull leaves members out that have no value, as a file does.
func withoutNull(members []*yaml.Node) []*yaml.Node {
	var out []*yaml.Node
	for i := 0; i+1 < len(members); i += 2 {
		if members[i+1].Tag != "!!null" {
			out = append(out, members[i], members[i+1])
		}
	}
	return out
}

// strip takes the members that no file has from a policy.
func strip(policy *yaml.Node) {
	for i := 0; i+1 < len(policy.Content); {
		if slices.Contains(absent, policy.Content[i].Value) {
			policy.Content = slices.Delete(policy.Content, i, i+2)
			continue
		}
		i += 2
	}
}

// Decode reads a file strictly: a member that is not known, one that comes twice, an alias, or a value of another kind is
// refused, with its line.
func Decode(r io.Reader) (File, error) {
	var f File
	b, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err != nil {
		return f, fmt.Errorf("reading the policy file: %w", err)
	}
	if len(b) > MaxBytes {
		return f, fmt.Errorf("the policy file is larger than %d MiB; split it by account", MaxBytes>>20)
	}
	d := yaml.NewDecoder(strings.NewReader(string(b)))
	var doc yaml.Node
	if err := d.Decode(&doc); err == io.EOF {
		return f, fmt.Errorf("the policy file is empty; keyward-broker policy export writes one to begin with")
	} else if err != nil {
		return f, fmt.Errorf("the policy file is not YAML: %w", err)
	}
	if err := d.Decode(&yaml.Node{}); err != io.EOF {
		return f, fmt.Errorf("the policy file holds more than one document; keep one list of policies in it")
	}
	var out strings.Builder
	c := converter{out: &out}
	if err := c.value(doc.Content[0], reflect.TypeFor[File](), 0); err != nil {
		return f, err
	}
	if err := json.Unmarshal([]byte(out.String()), &f); err != nil {
		return f, fmt.Errorf("the policy file is not valid: %w", err)
	}
	return f, f.check()
}

// check refuses what makes no sense in any account.
func (f File) check() error {
	if f.Format != Format {
		return fmt.Errorf("the policy file has format %d; this program reads format %d", f.Format, Format)
	}
	if len(f.Policies) > MaxPolicies {
		return fmt.Errorf("the policy file has more than %d policies", MaxPolicies)
	}
	names := map[string]bool{}
	for i, p := range f.Policies {
		key := fold(p.Name)
		switch {
		case key == "":
			return fmt.Errorf("policy %d of the file has no name", i+1)
		case names[key]:
			return fmt.Errorf("the file has two policies named %q; names are unique, upper and lower case alike", p.Name)
		case p.Default && (p.Images != nil || p.Devices != nil):
			return fmt.Errorf("policy %q is the default policy: its images and devices are computed; remove them from the file", p.Name)
		}
		names[key] = true
	}
	return nil
}

// fold is a name as it is compared: as the database does, by ASCII letters.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
}
