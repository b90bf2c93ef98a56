package server

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyward/broker/internal/audit"
	"keyward/broker/internal/rootkey/rootkeytest"
	"keyward/broker/internal/tenant"
)

// A broker whose root key does not answer stays ready as long as it may use what it has opened, then says 503 to who asks
// for its readiness, and is ready again by itself when the root key is back.
func TestReady_followsAnOutageOfTheRootKey(t *testing.T) {
	t.Parallel()
	t.Run("OpenBao or Vault", func(t *testing.T) {
		t.Parallel()
		f := rootkeytest.NewTransit(t)
		followsOutage(t, f.Describe(t, "keyward"), func() { f.Seal(true) }, func() { f.Seal(false) })
	})
	t.Run("KMIP", func(t *testing.T) {
		t.Parallel()
		p := rootkeytest.StartPyKMIP(t)
		followsOutage(t, p.Describe(t, "keyward"), p.Stop, func() { p.Start(t) })
	})
}

// followsOutage has the place of a root key fail by end, and come back by begin.
func followsOutage(t *testing.T, rootKey string, end, begin func()) {
	t.Helper()
	var offset atomic.Int64
	now := time.Now()
	c := Defaults()
	c.Data, c.RootKey, c.Version = filepath.Join(t.TempDir(), "data"), rootKey, "v0-test"
	c.PeopleListen, c.AgentListen, c.ServiceURL = "127.0.0.1:0", "127.0.0.1:0", "https://127.0.0.1:8444"
	c.Logger = slog.New(slog.DiscardHandler)
	c.Clock = func() time.Time { return now.Add(time.Duration(offset.Load())) }
	c.RootKeyKeep = time.Hour
	if _, err := Init(context.Background(), c, "Acme", "ann", "kim"); err != nil {
		t.Fatal(err)
	}
	r := start(t, c)
	ask := func(what string, status int, says string) {
		t.Helper()
		_ = r.b.tendRoots(context.Background()) // as its loop does; an error is what is being looked at
		res, err := clientOf(t, r.b.CACert()).Get(r.people + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != status || !strings.Contains(string(text), says) {
			t.Errorf("%s: %d %s %v, want %d and %q", what, res.StatusCode, text, err, status, says)
		}
	}
	ask("at first", 200, "ready")
	end()
	offset.Add(int64(30 * time.Minute))
	ask("half an hour without the root key", 200, "does not answer since")
	offset.Add(int64(31 * time.Minute))
	ask("after the time that keys are kept", 503, "the root key does not answer")
	begin()
	ask("the root key is back", 200, "ready")
	end()
	ask("a second outage has its own hour", 200, "does not answer since")
}

// A newer version of a key that is kept elsewhere wraps everything after a rotation that names no other key; the version
// before can be retired then, and a broker starts and opens what it opened.
func TestRotateRoot_toANewerVersionOfTheSameKey(t *testing.T) {
	t.Parallel()
	f := rootkeytest.NewTransit(t)
	c := Defaults()
	c.Data, c.RootKey, c.Version, c.Logger = filepath.Join(t.TempDir(), "data"), f.Describe(t, "keyward"), "v0-test", slog.New(slog.DiscardHandler)
	c.PeopleListen, c.AgentListen, c.ServiceURL = "127.0.0.1:0", "127.0.0.1:0", "https://127.0.0.1:8444"
	setup, err := Init(t.Context(), c, "Acme", "ann", "kim")
	if err != nil {
		t.Fatal(err)
	}
	f.Rotate("keyward", false)
	o, err := OpenRotation(t.Context(), c, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if !o.Renews() {
		t.Error("no rotation is offered")
	}
	versions := func(oldest, newest int, waits bool) {
		t.Helper()
		list, err := o.Keys.List(t.Context())
		if err != nil || len(list) != 1 || list[0].Version != oldest || list[0].Newest != newest || list[0].NewerWaits != waits {
			t.Errorf("the root keys are %+v, %v", list, err)
		}
	}
	versions(1, 2, true)
	f.Seal(true)
	if list, err := o.Keys.List(t.Context()); err != nil || list[0].Trouble == "" || list[0].NewerWaits {
		t.Errorf("while it does not answer the root keys are %+v, %v", list, err)
	}
	f.Seal(false)
	_, err = o.RotateRoot(t.Context(), nil)
	versions(2, 2, false)
	if closed := o.Close(); err != nil || closed != nil {
		t.Fatal(err, closed)
	}
	f.Retire("keyward")
	b, err := New(t.Context(), c) // which opens every account's key, or does not start
	if err != nil {
		t.Fatalf("with the old version retired: %v", err)
	}
	defer b.Close()
	page, err := b.Audit.Query(t.Context(), tenant.Principal{AccountID: setup.AccountID}, audit.Filter{Category: audit.Key})
	if err != nil || len(page.Records) != 1 || page.Records[0].Event != "account-key.root-renewed" {
		t.Errorf("the log: %+v, %v", page.Records, err)
	}
}
