package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// report prints rows as they are measured (JSON) or gathered in a table.
type report struct {
	w      io.Writer
	json   bool
	header []string
	rows   [][]string
}

func newReport(w io.Writer, asJSON bool) *report { return &report{w: w, json: asJSON} }

// row prints one measurement. value is marshalled for JSON; cells are its line in the table under header.
func (r *report) row(header []string, value any, cells ...string) {
	if r.json {
		raw, err := json.Marshal(value)
		if err != nil {
			panic(err)
		}
		fmt.Fprintln(r.w, string(raw))
		return
	}
	if !slices.Equal(header, r.header) {
		r.flush()
		r.header = header
	}
	r.rows = append(r.rows, cells)
	fmt.Fprintln(os.Stderr, " ", strings.Join(cells, "  "))
}

// missing names a peer that could not take part.
func (r *report) missing(bench, peer, reason string) {
	if r.json {
		r.row(nil, map[string]string{"bench": bench, "missing": peer, "reason": reason})
		return
	}
	fmt.Fprintf(r.w, "missing peer %s: %s\n", peer, reason)
}

// flush prints the table gathered so far.
func (r *report) flush() {
	if len(r.rows) == 0 {
		return
	}
	table := tabwriter.NewWriter(r.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, strings.Join(r.header, "\t")+"\t")
	for _, row := range r.rows {
		fmt.Fprintln(table, strings.Join(row, "\t")+"\t")
	}
	table.Flush()
	r.rows = nil
}

// median of the values, which it sorts; 0 for none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}
