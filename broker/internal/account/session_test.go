package account_test

import (
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/account"
	"keyward/broker/internal/store"
)

func TestSession_endsByIdleTimeAndByAge(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		on, err := w.LogOn(ctx, api.LogOn{Account: "acme", User: "kim", Password: approverPassword}, "192.0.2.1", "test")
		if err != nil {
			t.Fatal(err)
		}
		use := func() error { _, err := w.Authenticate(ctx, on.Token, "192.0.2.1"); return err }
		for range 23 { // used every half hour, just in time
			w.advance(account.SessionIdle - time.Second)
			if err := use(); err != nil {
				t.Fatalf("a session in use ended: %v", err)
			}
		}
		w.advance(account.SessionIdle)
		if slug(use()) != "unauthenticated" {
			t.Error("a session outlived its idle time")
		}
		on, err = w.LogOn(ctx, api.LogOn{Account: "acme", User: "kim", Password: approverPassword}, "192.0.2.1", "test")
		if err != nil {
			t.Fatal(err)
		}
		for elapsed := time.Duration(0); elapsed < account.SessionLife; elapsed += 20 * time.Minute {
			if err := use(); err != nil {
				t.Fatalf("a session in use ended after %v: %v", elapsed, err)
			}
			w.advance(20 * time.Minute)
		}
		if slug(use()) != "unauthenticated" {
			t.Error("a session outlived its twelve hours")
		}
		w.advance(time.Second)
		if err := w.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		if err := w.store.View(ctx, func(tx *store.Tx) error {
			n, err := store.In[store.Session](tx.Tenant(w.id)).Count()
			if n != 0 {
				t.Errorf("%d sessions are left after the sweep", n)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSession_isListedAndRevocableByItsOwnerOnly(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		on, err := w.LogOn(ctx, api.LogOn{Account: "acme", User: "kim", Password: approverPassword}, "192.0.2.7", "Browser\x00\xff")
		if err != nil {
			t.Fatal(err)
		}
		list, err := w.Sessions(ctx, w.approver)
		if err != nil || len(list) != 2 {
			t.Fatalf("kim sees %d sessions (%v), want 2", len(list), err)
		}
		for _, s := range list {
			if s.Current != (s.ID == w.approver.SessionID) {
				t.Errorf("session %s: current is %v", s.ID, s.Current)
			}
		}
		if err := w.EndSession(ctx, w.admin, on.SessionID); slug(err) != "not-found" {
			t.Errorf("ann ends a session of kim: %v", err)
		}
		if err := w.EndSession(ctx, w.approver, on.SessionID); err != nil {
			t.Errorf("kim ends her other session: %v", err)
		}
		if _, err := w.Authenticate(ctx, on.Token, ""); slug(err) != "unauthenticated" {
			t.Errorf("an ended session: %v", err)
		}
		if err := w.LogOff(ctx, w.approver); err != nil {
			t.Error(err)
		}
		if w.events("user.session-ended") != 1 || w.events("user.logged-off") != 1 {
			t.Error("ending sessions is not in the log")
		}
		for _, bad := range []string{"", "x", strings.Repeat("x", 1000), on.Token + "x"} {
			if _, err := w.Authenticate(ctx, bad, ""); slug(err) != "unauthenticated" {
				t.Errorf("token %.10q: %v", bad, err)
			}
		}
	})
}

func TestSession_onlyItsHashIsStored(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		on, err := w.LogOn(ctx, api.LogOn{Account: "acme", User: "kim", Password: approverPassword}, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.View(ctx, func(tx *store.Tx) error {
			row, err := store.In[store.Session](tx.Tenant(w.id)).Get(on.SessionID)
			if strings.Contains(string(row.TokenHash), on.Token) || len(row.TokenHash) != 32 || len(on.Token) < 43 {
				t.Errorf("stored hash of %d bytes for a token of %d characters", len(row.TokenHash), len(on.Token))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSession_aUserHasAtMostTwenty(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for range 21 {
			w.advance(time.Second)
			if err := w.tries("kim", approverPassword); err != nil {
				t.Fatal(err)
			}
		}
		list, err := w.Sessions(ctx, w.approver)
		if err != nil || len(list) != 20 {
			t.Errorf("%d sessions (%v), want 20", len(list), err)
		}
	})
}
