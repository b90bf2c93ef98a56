package keyrequest

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

	"keyward/broker/api"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// reported are the machine's events and what they are to the request machine.
var reported = map[api.RequestEventName]struct {
	event  Event
	reason string
}{
	api.EventMounted:   {EventMounted, "The volume is mounted."},
	api.EventUnmounted: {EventUnmounted, "The machine unmounted the volume and wiped the key."},
	api.EventRevoked:   {EventAgentRevoked, "The machine unmounted the volume and wiped the key."},
	api.EventSuspended: {EventAgentRevoked, "The machine suspended the volume and wiped the key."},
	api.EventFailed:    {EventFailed, "The machine could not open or mount the volume."},
}

// maxDetail is the longest text of a report, in characters.
const maxDetail = 1024

// Report takes what the calling machine says of a delivered key.
func (s *Service) Report(ctx context.Context, p tenant.Principal, call idempotency.Call, id string, in api.RequestEvent) error {
	what, ok := reported[in.Event]
	if !ok {
		return problem.Invalid("event", "is none of mounted, unmounted, revoked, suspended and failed")
	}
	_, err := idempotency.Tx(ctx, s.Store, p.AccountID, call, func(t *store.Tenant) (struct{}, error) {
		r, err := own(t, p, id)
		if err != nil {
			return struct{}{}, err
		}
		c := change{event: what.event, reason: what.reason, detail: map[string]string{}}
		if text := oneLine(in.Detail); text != "" {
			c.reason += " " + text
		}
		if at := oneLine(in.Location); at != "" {
			c.detail["location"] = at
		}
		_, err = s.move(t, p, &r, c)
		return struct{}{}, err
	})
	return err
}

// oneLine makes a machine's words fit to be shown.
func oneLine(text string) string {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text))
	if r := []rune(text); len(r) > maxDetail {
		return string(r[:maxDetail])
	}
	return text
}
