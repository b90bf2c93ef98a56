// Command features checks docs/features.md: every row names a feature of the product once and at least one proof that
// exists, either a Go test ("folder.TestName") or a step of the demonstration ("e2e/demo.stepName"), which
// `make demo-check` runs. It prints the count per group and in all.
package main

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const list = "docs/features.md"

var (
	rowID = regexp.MustCompile(`^[A-Z]{1,3}-[0-9]{2}$`)
	proof = regexp.MustCompile(`^([a-z0-9_/]+)\.((?:Test|Fuzz|Example|step)[A-Za-z0-9_]*)$`)
)

// row is one line of the table.
type row struct {
	id, text string
	proofs   []string
	line     int
}

func main() {
	file, err := os.Open(list)
	if err != nil {
		fmt.Fprintf(os.Stderr, "features: %v (run from the top of the repository)\n", err)
		os.Exit(2)
	}
	defer file.Close()
	rows, faults := parse(file)
	faults = append(faults, check(rows)...)
	if len(faults) > 0 {
		for _, fault := range faults {
			fmt.Fprintln(os.Stderr, list+fault)
		}
		os.Exit(1)
	}
	groups := map[string]int{}
	for _, r := range rows {
		groups[strings.SplitN(r.id, "-", 2)[0]]++
	}
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		fmt.Printf("%-4s %d\n", group, groups[group])
	}
	fmt.Printf("features: %d proved\n", len(rows))
}

// parse reads the rows of every table whose first cell is a feature ID.
func parse(file *os.File) (rows []row, faults []string) {
	scanner := bufio.NewScanner(file)
	for number := 1; scanner.Scan(); number++ {
		cells := strings.Split(scanner.Text(), "|")
		if len(cells) < 3 || !rowID.MatchString(strings.TrimSpace(cells[1])) {
			continue
		}
		if len(cells) != 5 {
			faults = append(faults, fmt.Sprintf(":%d: want three cells (ID, what a user sees, proof), have %d", number, len(cells)-2))
			continue
		}
		r := row{id: strings.TrimSpace(cells[1]), text: strings.TrimSpace(cells[2]), line: number}
		for p := range strings.SplitSeq(cells[3], ",") {
			if p = strings.Trim(strings.TrimSpace(p), "`"); p != "" {
				r.proofs = append(r.proofs, p)
			}
		}
		rows = append(rows, r)
	}
	if err := scanner.Err(); err != nil {
		faults = append(faults, ": "+err.Error())
	}
	return rows, faults
}

func check(rows []row) (faults []string) {
	seen := map[string]int{}
	functions := map[string]map[string]bool{}
	for _, r := range rows {
		if first, twice := seen[r.id]; twice {
			faults = append(faults, fmt.Sprintf(":%d: %s stands already in line %d", r.line, r.id, first))
		}
		seen[r.id] = r.line
		if r.text == "" || len(r.proofs) == 0 {
			faults = append(faults, fmt.Sprintf(":%d: %s lacks what a user sees or its proof", r.line, r.id))
		}
		for _, p := range r.proofs {
			match := proof.FindStringSubmatch(p)
			if match == nil {
				faults = append(faults, fmt.Sprintf(":%d: %s: %q is not folder.TestName", r.line, r.id, p))
				continue
			}
			folder, name := match[1], match[2]
			if functions[folder] == nil {
				functions[folder] = declared(folder)
			}
			if !functions[folder][name] {
				faults = append(faults, fmt.Sprintf(":%d: %s: %s has no %s", r.line, r.id, folder, name))
			}
		}
	}
	if len(rows) == 0 {
		faults = append(faults, ": no rows found")
	}
	return faults
}

// declared are the top-level tests of a folder, and the functions of the demonstration.
func declared(folder string) map[string]bool {
	names := map[string]bool{}
	pattern := "*_test.go"
	if folder == "e2e/demo" {
		pattern = "*.go"
	}
	files, _ := filepath.Glob(filepath.Join(folder, pattern))
	for _, file := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			continue
		}
		for _, d := range tree.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}
