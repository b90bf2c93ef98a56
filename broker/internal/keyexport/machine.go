package keyexport

import (
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/machine"
)

// Event is something that happens to an export.
type Event string

// The events.
const (
	EventAsked     Event = "asked"     // a Security Administrator wants keys out of the broker
	EventAgreed    Event = "agreed"    // another one agrees
	EventDenied    Event = "denied"    // another one does not
	EventCancelled Event = "cancelled" // who asked wants it no more
	EventFetched   Event = "fetched"   // who asked takes it, once
	EventTimeOver  Event = "time-over" // nobody fetched it in time
)

// Ctx are the circumstances of an event. A zero value never allows more than a set one.
type Ctx struct {
	// Enough: as many people agree, now, as the account wants, now and when it was asked for.
	Enough bool
	// Own: the caller asked for it.
	Own bool
	// Other: the caller is a person, and another one than asked for it.
	Other bool
	// Same: the keys are those that were agreed on.
	Same bool
}

// Effect is work that belongs to a change: "audit", and those below.
type Effect = machine.Effect

// The kinds of effects beside "audit".
const (
	EffectHandOver = "hand-over" // the keys leave the broker; a recovery key takes effect
	EffectClose    = "close"     // the export is over: set its end
)

// Refused is the error of an event that is not possible now.
type Refused = machine.Refused

// Result is where an export goes and what the caller commits with it, in order.
type Result struct {
	Next    api.KeyExportStatus
	Effects []Effect
}

// Apply is the only place where an export's status changes. It is pure; the error is a *Refused that says why and what to
// do instead, and then nothing may change.
func Apply(s api.KeyExportStatus, e Event, c Ctx) (Result, error) {
	row, err := table.Find(s, e, c)
	if err != nil {
		return Result{}, err
	}
	return Result{Next: row.To, Effects: slices.Clone(row.Effects)}, nil
}

// Accepts says whether an event is possible in a status under some circumstances; for offering buttons.
func Accepts(s api.KeyExportStatus, e Event) bool { return table.Accepts(s, e) }

// Open says whether an export in this status may still be fetched one day.
func Open(s api.KeyExportStatus) bool { return s == api.ExportWaiting || s == api.ExportApproved }

// Table is the machine as a markdown table, for the documentation.
func Table() string { return table.Markdown() }
