package httpapi_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"keyward/broker/api"
)

var errEnough = errors.New("enough")

// listen collects topics until it has seen one.
func (o *org) await(topic string, after func()) ([]string, error) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), 20*time.Second)
	defer cancel()
	var seen []string
	err := o.approver.Events(ctx, func(got string) error {
		if got == "connected" {
			after()
		}
		seen = append(seen, got)
		if got == topic {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return seen, err
}

func TestEvents_tellOfChangesInTheOwnAccountOnly(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o, other := r.org("acme"), r.org("globex")
		b, c := o.machine("db1"), other.machine("db1")
		d, _ := b.encrypted("data")
		foreign, _ := c.encrypted("data")
		seen, err := o.await("policies", func() {
			c.ask(foreign.ID) // another account's request
			if _, err := o.admin.CreatePolicy(t.Context(), api.Policy{Name: "p", Rules: []api.Rule{}, OnMatch: api.ActionManual, OnFailure: api.ActionManual,
				LeaseSeconds: 60, HeartbeatSeconds: 10, RevokeMode: api.RevokeUnmount}); err != nil {
				t.Error(err)
			}
		})
		if err != nil || slices.Contains(seen, "key-requests") {
			t.Fatalf("heard %v: %v", seen, err)
		}
		a := b.ask(d.ID)
		if seen, err = o.await("key-requests", func() { a.approve() }); err != nil {
			t.Fatalf("heard %v: %v", seen, err)
		}
	})
}

func TestEvents_endWithTheSession(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		began := time.Now()
		_, err := o.await("never", func() {
			if err := o.approver.LogOff(t.Context()); err != nil {
				t.Error(err)
			}
		})
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("the stream of an ended session went on for %v: %v", time.Since(began), err)
		}
		_, err = o.await("never", func() {})
		wantProblem(t, err, 401, "unauthenticated")
	})
}

func TestCommands_waitForSomethingNew(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		a := b.ask(d.ID).mounted()
		if list := must[api.CommandList](t)(b.Commands(ctx, time.Second)); len(list.Commands) != 0 {
			t.Fatalf("commands %+v", list)
		}
		got := make(chan api.CommandList, 1)
		go func() {
			list, err := b.Commands(ctx, 50*time.Second)
			if err != nil {
				t.Error(err)
			}
			got <- list
		}()
		time.Sleep(50 * time.Millisecond)
		if _, err := o.approver.Revoke(ctx, a.ID, api.Decision{}); err != nil {
			t.Fatal(err)
		}
		if list := <-got; len(list.Commands) != 1 || list.Commands[0].RequestID != a.ID {
			t.Fatalf("commands %+v", list)
		}
		// Repeated until it is confirmed, but not at once again and again.
		list := must[api.CommandList](t)(b.Commands(ctx, time.Second))
		if len(list.Commands) != 1 {
			t.Fatalf("commands %+v; they are in the answer even when nothing is new, at the end of the wait", list)
		}
	})
}
