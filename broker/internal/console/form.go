package console

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"keyward/broker/internal/problem"
	"keyward/ui"
)

// refusal finds in a service's error what a form can show beside its fields: the status to answer with, the message
// above the form, and the reasons by field name. ok is false when the error is not one that correcting the form cures.
func refusal(err error) (status int, flash *ui.Flash, fields map[string]string, ok bool) {
	var p *problem.Problem
	if known, found := problem.From(err); found {
		p = known
	}
	if p == nil || p.Status < 400 || p.Status >= 500 || p.Status == http.StatusNotFound || p.Status == http.StatusUnauthorized {
		return 0, nil, nil, false
	}
	return p.Status, &ui.Flash{Tone: ui.ToneBad, Title: p.Title, Text: p.Detail, Hint: p.Hint}, p.Fields, true
}

// mark puts reasons beside the fields they belong to and returns those that belong to none.
func mark(reasons map[string]string, groups ...[]ui.Field) []string {
	placed := map[string]bool{}
	for _, fields := range groups {
		for i := range fields {
			if reason, ok := reasons[fields[i].Name]; ok {
				fields[i].Error = sentence(reason)
				placed[fields[i].Name] = true
			}
		}
	}
	var rest []string
	for _, name := range sortedKeys(reasons) {
		if !placed[name] {
			rest = append(rest, name+": "+reasons[name])
		}
	}
	return rest
}

// explain adds reasons that no field shows to the message above the form.
func explain(flash *ui.Flash, rest []string) {
	if len(rest) == 0 {
		return
	}
	flash.Text = strings.TrimSpace(flash.Text + " " + strings.Join(rest, "; "))
}

func sentence(s string) string {
	if s == "" {
		return s
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// number reads a whole number of a form.
func (v *visit) number(name string) (int64, error) {
	n, err := strconv.ParseInt(v.text(name), 10, 64)
	if err != nil {
		return 0, problem.Invalid(name, "enter a whole number")
	}
	return n, nil
}

// version reads the hidden version of a form; a form without one is refused rather than saved over others' changes.
func (v *visit) version() (int64, error) {
	n, err := v.number("version")
	if err != nil {
		return 0, problem.Conflict("The form carries no version of what it changes.", "Open the page again and repeat the change.")
	}
	return n, nil
}

// page reads ?page= and ?size=; anything else than the offered sizes is the first.
func (v *visit) page() (page, size int) {
	page, err := strconv.Atoi(v.query("page"))
	if err != nil || page < 1 || page > 1_000_000 {
		page = 1
	}
	size, err = strconv.Atoi(v.query("size"))
	if err != nil || !slices.Contains(ui.PageSizes, size) {
		size = ui.PageSizes[1]
	}
	return page, size
}

func options(selected string, pairs ...string) []ui.Option {
	var list []ui.Option
	for i := 0; i+1 < len(pairs); i += 2 {
		list = append(list, ui.Option{Value: pairs[i], Label: pairs[i+1], Selected: pairs[i] == selected})
	}
	return list
}

// keep makes sure that a select shows the value it has, also when that value is not offered any more.
func keep(list []ui.Option, selected string) []ui.Option {
	if selected == "" || slices.ContainsFunc(list, func(o ui.Option) bool { return o.Value == selected }) {
		return list
	}
	return append(list, ui.Option{Value: selected, Label: selected, Selected: true})
}
