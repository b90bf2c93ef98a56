package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
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

func TestEvents_oneSessionDoesNotTakeEveryPlace(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		ctx, cancel := context.WithCancel(t.Context())
		var streams sync.WaitGroup
		defer streams.Wait()
		defer cancel()
		for range 16 {
			connected := make(chan struct{})
			streams.Go(func() {
				_ = o.approver.Events(ctx, func(got string) error {
					if got == "connected" {
						close(connected)
					}
					return nil
				})
			})
			select {
			case <-connected:
			case <-time.After(30 * time.Second):
				t.Fatal("a stream does not begin")
			}
		}
		err := o.approver.Events(t.Context(), func(string) error { return errEnough })
		wantProblem(t, err, 429, "too-many-requests")
		if err := o.admin.Events(t.Context(), func(string) error { return errEnough }); !errors.Is(err, errEnough) {
			t.Errorf("another session: %v", err)
		}
	})
}

func TestPages_beyondTheLastAreEmpty(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		b.ask(d.ID)
		for _, page := range []string{"2", "461168601842738791", "9223372036854775807"} {
			for _, path := range []string{"/api/v1/devices", "/api/v1/running-instances"} {
				var out struct {
					Total int64             `json:"total"`
					Items []json.RawMessage `json:"devices"`
					Rows  []json.RawMessage `json:"rows"`
				}
				if err := o.admin.Do(t.Context(), "GET", path+"?size=100&page="+page, nil, &out); err != nil || out.Total != 1 || len(out.Items)+len(out.Rows) != 0 {
					t.Errorf("page %s of %s: %+v, %v", page, path, out, err)
				}
			}
		}
		wantProblem(t, o.admin.Do(t.Context(), "GET", "/api/v1/audit?page=9223372036854775807", nil, nil), 422, "invalid")
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
