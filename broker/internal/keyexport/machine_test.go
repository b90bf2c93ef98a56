package keyexport

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"keyward/broker/api"
)

var update = flag.Bool("update", false, "write the table into docs/operations/exports.md")

// Every status x event x circumstance: what is not listed is refused and changes nothing.
func TestMachine_everyStatusAndEvent(t *testing.T) {
	t.Parallel()
	const absent = api.KeyExportStatus("")
	statuses := []api.KeyExportStatus{absent, api.ExportWaiting, api.ExportApproved, api.ExportFetched, api.ExportDenied, api.ExportCancelled, api.ExportExpired}
	events := []Event{EventAsked, EventAgreed, EventDenied, EventCancelled, EventFetched, EventTimeOver}
	want := func(s api.KeyExportStatus, e Event, c Ctx) (api.KeyExportStatus, bool) {
		open := s == api.ExportWaiting || s == api.ExportApproved
		switch {
		case s == absent && e == EventAsked && c.Enough:
			return api.ExportApproved, true
		case s == absent && e == EventAsked:
			return api.ExportWaiting, true
		case open && e == EventAgreed && c.Other && (c.Enough || s == api.ExportApproved):
			return api.ExportApproved, true
		case open && e == EventAgreed && c.Other:
			return api.ExportWaiting, true
		case open && e == EventDenied && c.Other:
			return api.ExportDenied, true
		case open && e == EventCancelled && c.Own:
			return api.ExportCancelled, true
		case s == api.ExportApproved && e == EventFetched && c.Own && c.Enough && c.Same:
			return api.ExportFetched, true
		case open && e == EventTimeOver:
			return api.ExportExpired, true
		}
		return "", false
	}
	for _, s := range statuses {
		for _, e := range events {
			for bits := range 16 {
				c := Ctx{Enough: bits&1 > 0, Own: bits&2 > 0, Other: bits&4 > 0, Same: bits&8 > 0}
				next, ok := want(s, e, c)
				got, err := Apply(s, e, c)
				var refused *Refused
				if ok != (err == nil) || ok && got.Next != next || err != nil && (!errors.As(err, &refused) || refused.Help == "") {
					t.Errorf("%q on %q with %+v: %v, %v; want %q, possible %v", e, s, c, got, err, next, ok)
				}
				audited, hands := 0, 0
				for _, f := range got.Effects {
					switch f.Kind {
					case "audit":
						audited++
					case EffectHandOver:
						hands++
					}
				}
				if err == nil && audited == 0 || (hands == 1) != (err == nil && e == EventFetched) {
					t.Errorf("%q on %q: %d records, %d keys leave", e, s, audited, hands)
				}
			}
		}
	}
}

// The page for operators shows the machine as it is.
func TestDocs_showTheMachineAsItIs(t *testing.T) {
	const path, begin, end = "../../../docs/operations/exports.md", "<!-- key-export-machine -->\n", "<!-- end -->"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for the machine", path)
	}
	want := before + begin + Table() + end + after
	if want == string(page) {
		return
	}
	if !*update {
		t.Fatalf("%s shows another machine than the code has; run: go test ./broker/internal/keyexport -run TestDocs -update", path)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
