// Package outcomes reads what the broker's state machines can bring about, from the tables that are written from the code,
// and where docs/outcomes.md says that each of it is proven.
package outcomes

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"keyward/e2e/proof"
)

// Outcome is a status that something comes to by an event.
type Outcome struct {
	// Machine is the heading of its section in docs/outcomes.md.
	Machine, Event, To string
}

// The machines.
const (
	KeyRequests = "Key requests"
	Devices     = "Devices"
	RAIDSets    = "RAID sets"
	// Ratings are no machine: To is the rating of a key request, and Event what brings it.
	Ratings = "Ratings"
)

// Possible are the changes of status that the machines' tables have, each with the audit record that it leaves, "" when
// it leaves none of its own.
func Possible(root string) (map[Outcome]string, error) {
	page, err := os.ReadFile(filepath.Join(root, "docs/agent-protocol.md"))
	if err != nil {
		return nil, err
	}
	raid, err := os.ReadFile(filepath.Join(root, "broker/internal/inventory/testdata/raid-machine.md"))
	if err != nil {
		return nil, err
	}
	out := map[Outcome]string{}
	for machine, text := range map[string]string{KeyRequests: between(string(page), "key-request-machine"), Devices: between(string(page), "device-machine"),
		RAIDSets: string(raid)} {
		rows := table(text, 5)
		if len(rows) == 0 {
			return nil, fmt.Errorf("the table of %s was not found", machine)
		}
		for _, row := range rows {
			from, event, to, effects := row[0], row[1], row[3], row[4]
			if to == "(unchanged)" || to == from {
				continue
			}
			left := recorded.FindStringSubmatch(effects)
			if left == nil {
				left = []string{"", ""}
			}
			out[Outcome{machine, event, to}] = left[1]
		}
	}
	return out, nil
}

var recorded = regexp.MustCompile(`audit\(([a-z.-]+)\)`)

func between(page, mark string) string {
	_, rest, _ := strings.Cut(page, "<!-- "+mark+" -->")
	text, _, _ := strings.Cut(rest, "<!-- end -->")
	return text
}

// table returns the cells of the rows under a table's rule that have n cells.
func table(text string, n int) (rows [][]string) {
	under := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			under = false
			continue
		}
		if strings.Trim(line, "|- ") == "" {
			under = true
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !under || len(cells) != n {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows
}

// Documented are the outcomes of docs/outcomes.md with their proofs.
func Documented(root string) (map[Outcome][]string, error) {
	page, err := os.ReadFile(filepath.Join(root, "docs/outcomes.md"))
	if err != nil {
		return nil, err
	}
	out := map[Outcome][]string{}
	for _, section := range strings.Split(string(page), "\n## ")[1:] {
		heading, text, _ := strings.Cut(section, "\n")
		for _, row := range table(text, 3) {
			o := Outcome{strings.TrimSpace(heading), row[1], row[0]}
			if out[o] != nil {
				return nil, fmt.Errorf("docs/outcomes.md has %+v twice", o)
			}
			out[o] = proof.Parse(row[2])
		}
	}
	return out, nil
}
