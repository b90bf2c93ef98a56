// Command features checks docs/features.md: every row names a feature of the product once and at least one proof that
// exists. It prints the count per group and in all.
package main

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"keyward/e2e/proof"
)

const list = "docs/features.md"

var rowID = regexp.MustCompile(`^[A-Z]{1,3}-[0-9]{2}$`)

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
		rows = append(rows, row{id: strings.TrimSpace(cells[1]), text: strings.TrimSpace(cells[2]), proofs: proof.Parse(cells[3]), line: number})
	}
	if err := scanner.Err(); err != nil {
		faults = append(faults, ": "+err.Error())
	}
	return rows, faults
}

func check(rows []row) (faults []string) {
	seen := map[string]int{}
	tests := proof.In(".")
	for _, r := range rows {
		if first, twice := seen[r.id]; twice {
			faults = append(faults, fmt.Sprintf(":%d: %s stands already in line %d", r.line, r.id, first))
		}
		seen[r.id] = r.line
		if r.text == "" || len(r.proofs) == 0 {
			faults = append(faults, fmt.Sprintf(":%d: %s lacks what a user sees or its proof", r.line, r.id))
		}
		for _, p := range r.proofs {
			if err := tests.Check(p); err != nil {
				faults = append(faults, fmt.Sprintf(":%d: %s: %v", r.line, r.id, err))
			}
		}
	}
	if len(rows) == 0 {
		faults = append(faults, ": no rows found")
	}
	return faults
}
