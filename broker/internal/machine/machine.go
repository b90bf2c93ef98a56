// Package machine is the mechanism under the broker's state machines: a table of rows is the whole behaviour, the same
// table is what documentation shows, and what the table does not list is refused with the reason.
//
// It is pure. A machine changes nothing by itself: it answers where to go and what the caller must do, and the caller
// commits both in one transaction.
package machine

import (
	"fmt"
	"slices"
	"strings"
)

// Effect is one thing that the caller does together with a change of state, in the order listed.
type Effect struct {
	// Kind names the work, for example "send-revoke".
	Kind string
	// Name is the event of an "audit" effect or the message of a "notify" effect; empty otherwise.
	Name string
}

// Audit is the effect of writing a record with this event name.
func Audit(event string) Effect { return Effect{"audit", event} }

// Notify is the effect of telling people.
func Notify(message string) Effect { return Effect{"notify", message} }

// Do is any other effect.
func Do(kind string) Effect { return Effect{Kind: kind} }

// String writes kind(name).
func (e Effect) String() string {
	if e.Name == "" {
		return e.Kind
	}
	return e.Kind + "(" + e.Name + ")"
}

// Guard is a named condition on a row. I is what a machine is asked with: its full state and the circumstances.
type Guard[I any] struct {
	// Text says in a few words when the guard holds; tables show it, and refusals quote it.
	Text  string
	Holds func(I) bool
}

// When makes a guard.
func When[I any](text string, holds func(I) bool) Guard[I] { return Guard[I]{text, holds} }

// Row is one arrow: in any of From, on Event, if all guards hold, go to To and do Effects.
type Row[S, E ~string, I any] struct {
	From  []S
	Event E
	When  []Guard[I]
	// To is the next state; Stay keeps the state.
	To      S
	Effects []Effect
}

// Table is a machine. Of the rows for a state and event the first whose guards hold is taken.
type Table[S, E ~string, I any] struct {
	// Subject names what has the state, for example "key request".
	Subject string
	// Stay is the To of rows that keep the state.
	Stay S
	Rows []Row[S, E, I]
	// Help says for each event what it needs, for the reader of a refusal.
	Help map[E]string
}

// Refused says that an event is not possible now. It is the caller's conflict, not a fault of the broker.
type Refused struct {
	Subject, State, Event string
	// Needs are the unmet conditions when the event would be possible under others; Help is what the reader can do.
	Needs []string
	Help  string
}

// Error is one sentence with the reason and what to do.
func (r *Refused) Error() string {
	state := r.State
	if state == "" {
		state = "new"
	}
	text := fmt.Sprintf("%q is refused: the %s is %s", r.Event, r.Subject, state)
	if len(r.Needs) > 0 {
		text += ", and this needs: " + strings.Join(r.Needs, "; or: ")
	}
	if r.Help != "" {
		text += " (" + r.Help + ")"
	}
	return text
}

// Find returns the row to take, with To resolved.
func (t Table[S, E, I]) Find(state S, event E, in I) (Row[S, E, I], error) {
	refused := &Refused{Subject: t.Subject, State: string(state), Event: string(event), Help: t.Help[event]}
	for _, row := range t.Rows {
		if row.Event != event || !slices.Contains(row.From, state) {
			continue
		}
		unmet := row.unmet(in)
		if len(unmet) == 0 {
			if row.To == t.Stay {
				row.To = state
			}
			return row, nil
		}
		refused.Needs = append(refused.Needs, strings.Join(unmet, " and "))
	}
	return Row[S, E, I]{}, refused
}

// Accepts says whether any row takes the event in the state, whatever the circumstances.
func (t Table[S, E, I]) Accepts(state S, event E) bool {
	return slices.ContainsFunc(t.Rows, func(r Row[S, E, I]) bool {
		return r.Event == event && slices.Contains(r.From, state)
	})
}

func (r Row[S, E, I]) unmet(in I) []string {
	var texts []string
	for _, g := range r.When {
		if !g.Holds(in) {
			texts = append(texts, g.Text)
		}
	}
	return texts
}

// Markdown writes the table for the documentation, one line per row.
func (t Table[S, E, I]) Markdown() string {
	var b strings.Builder
	b.WriteString("| state | event | if | next | effects |\n|---|---|---|---|---|\n")
	for _, row := range t.Rows {
		when := make([]string, len(row.When))
		for i, g := range row.When {
			when[i] = g.Text
		}
		effects := make([]string, len(row.Effects))
		for i, e := range row.Effects {
			effects[i] = e.String()
		}
		from := make([]string, len(row.From))
		for i, s := range row.From {
			from[i] = shown(string(s), "(new)")
		}
		next := shown(string(row.To), "(gone)")
		if row.To == t.Stay {
			next = "(unchanged)"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n",
			strings.Join(from, ", "), row.Event, strings.Join(when, " and "), next, strings.Join(effects, ", "))
	}
	return b.String()
}

func shown(s, empty string) string {
	if s == "" {
		return empty
	}
	return s
}
