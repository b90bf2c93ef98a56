package outcomes

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"

	"keyward/e2e/proof"
)

const root = "../.."

// Whatever a machine's table can bring about stands in docs/outcomes.md with tests that exist, and nothing else does.
func TestOutcomes_eachHasItsProof(t *testing.T) {
	t.Parallel()
	possible, err := Possible(root)
	if err != nil {
		t.Fatal(err)
	}
	documented, err := Documented(root)
	if err != nil {
		t.Fatal(err)
	}
	tests := proof.In(root)
	for o := range possible {
		if len(documented[o]) == 0 {
			t.Errorf("docs/outcomes.md has no proof of %s: %s by %s", o.Machine, o.To, o.Event)
		}
	}
	for o, proofs := range documented {
		if _, ok := possible[o]; !ok && o.Machine != Ratings {
			t.Errorf("docs/outcomes.md has %s: %s by %s, which the machine has not", o.Machine, o.To, o.Event)
		}
		for _, p := range proofs {
			if err := tests.Check(p); err != nil {
				t.Errorf("%s: %s by %s: %v", o.Machine, o.To, o.Event, err)
			}
		}
	}
}

// Every status and every rating that people and scripts can meet is among the outcomes.
func TestOutcomes_haveEveryStatusAndRating(t *testing.T) {
	t.Parallel()
	documented, err := Documented(root)
	if err != nil {
		t.Fatal(err)
	}
	reached := map[string]map[string]bool{"KeyStatus": {}, "DeviceStatus": {}, "Integrity": {}}
	types := map[string]string{KeyRequests: "KeyStatus", Devices: "DeviceStatus", RAIDSets: "DeviceStatus", Ratings: "Integrity"}
	for o := range documented {
		reached[types[o.Machine]][o.To] = true
	}
	found := 0
	for _, c := range constants(t, root+"/broker/api/state.go") {
		if reached[c.kind] == nil {
			continue
		}
		if found++; !reached[c.kind][c.value] {
			t.Errorf("docs/outcomes.md does not say how anything becomes %s", c.value)
		}
	}
	if found < 25 {
		t.Errorf("found only %d statuses and ratings; they would be checked against nothing", found)
	}
}

type constant struct{ kind, value string }

// constants are a file's typed string constants.
func constants(t *testing.T, path string) (out []constant) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, s := range group.Specs {
			spec := s.(*ast.ValueSpec)
			kind, typed := spec.Type.(*ast.Ident)
			if !typed || len(spec.Values) != 1 {
				continue
			}
			if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
				value, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, constant{kind.Name, value})
			}
		}
	}
	return out
}
