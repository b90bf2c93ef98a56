// Package proof finds the tests that documents name as proofs: a Go test ("folder.TestName"), or a step of the
// demonstration ("e2e/demo.stepName"), which `make demo-check` runs.
package proof

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
)

var name = regexp.MustCompile(`^([a-z0-9_/]+)\.((?:Test|Fuzz|Example|step)[A-Za-z0-9_]*)$`)

// Finder looks for proofs below the top of the repository.
type Finder struct {
	root      string
	functions map[string]map[string]bool // by folder
}

// In makes a Finder for a repository.
func In(root string) *Finder { return &Finder{root: root, functions: map[string]map[string]bool{}} }

// Parse reads the names in a cell: separated by commas, each between backquotes.
func Parse(cell string) (names []string) {
	for p := range strings.SplitSeq(cell, ",") {
		if p = strings.Trim(strings.TrimSpace(p), "`"); p != "" {
			names = append(names, p)
		}
	}
	return names
}

// Check says what is wrong with a name; nil when the test exists.
func (f *Finder) Check(proof string) error {
	match := name.FindStringSubmatch(proof)
	if match == nil {
		return fmt.Errorf("%q is not folder.TestName", proof)
	}
	folder, function := match[1], match[2]
	if f.functions[folder] == nil {
		f.functions[folder] = f.declared(folder)
	}
	if !f.functions[folder][function] {
		return fmt.Errorf("%s has no %s", folder, function)
	}
	return nil
}

// declared are the top-level tests of a folder, and the functions of the demonstration.
func (f *Finder) declared(folder string) map[string]bool {
	names := map[string]bool{}
	pattern := "*_test.go"
	if folder == "e2e/demo" {
		pattern = "*.go"
	}
	files, _ := filepath.Glob(filepath.Join(f.root, folder, pattern))
	for _, file := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			continue
		}
		for _, d := range tree.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}
