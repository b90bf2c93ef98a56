package volume

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyward/broker/api"
	"keyward/nbdcrypt/keymem"
)

// fake is broker and machine in one: it decides by its fields and remembers what was done.
type fake struct {
	skew   atomic.Int64 // nanoseconds by which the boot clock is ahead
	mu     sync.Mutex
	did    []string
	status api.KeyStatus
	// version of the status; Status waits until it differs.
	version int64
	files   int
	fileErr error
	mount   func(context.Context) error
	held    bool
	events  []api.RequestEventName
	keys    []*keymem.Key
	lease   time.Duration
	clock   func() time.Duration
	// mode is the policy's word in every status.
	mode api.RevokeMode
}

func (f *fake) note(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.did = append(f.did, s)
}

func (f *fake) decide(s api.KeyStatus) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = s
	f.version++
}

func (f *fake) File(context.Context, string) (Request, api.KeyRequestStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files++
	if f.fileErr != nil {
		return nil, api.KeyRequestStatus{}, f.fileErr
	}
	return f, f.now(), nil
}

// now is where the request stands. The caller holds f.mu.
func (f *fake) now() api.KeyRequestStatus {
	return api.KeyRequestStatus{ID: "request", Number: 7, Status: f.status, Version: f.version + 1, Reason: "because", RevokeMode: f.mode}
}

func (f *fake) ID() string { return "request" }

func (f *fake) Status(ctx context.Context, after int64) (api.KeyRequestStatus, error) {
	for {
		f.mu.Lock()
		s := f.now()
		f.mu.Unlock()
		if s.Version != after {
			return s, nil
		}
		pause(ctx, time.Second)
		if ctx.Err() != nil {
			return s, ctx.Err()
		}
	}
}

func (f *fake) Collect(context.Context) (*Grant, error) {
	key, err := keymem.New(64)
	if err != nil {
		return nil, err
	}
	f.decide(api.KeyDelivered)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = append(f.keys, key)
	return &Grant{Key: key, LeaseEnd: f.clock() + f.lease}, nil
}

func (f *fake) Report(e api.RequestEvent) {
	f.mu.Lock()
	f.events = append(f.events, e.Event)
	f.mu.Unlock()
	if e.Event == api.EventRevoked || e.Event == api.EventSuspended {
		f.decide(api.KeyRevoked)
	}
}

func (f *fake) Forget() {}

func (f *fake) Open(_ context.Context, _ string, g *Grant) (Export, error) {
	f.note("open")
	return &fakeExport{f, g.Key}, nil
}

type fakeExport struct {
	f   *fake
	key *keymem.Key
}

func (x *fakeExport) Info() Info { return Info{Kind: "fake"} }
func (x *fakeExport) Mount(ctx context.Context) error {
	x.f.note("mount")
	if x.f.mount != nil {
		return x.f.mount(ctx)
	}
	return nil
}
func (x *fakeExport) GiveUp(context.Context, string) (bool, string) {
	x.f.note("give up")
	x.key.Wipe()
	return x.f.held, ""
}
func (x *fakeExport) Hold(context.Context, string) string { x.f.note("hold"); x.key.Wipe(); return "" }
func (x *fakeExport) Resume(_ context.Context, g *Grant) error {
	x.f.note("resume")
	x.key = g.Key
	return nil
}
func (x *fakeExport) Abandon(context.Context) string { x.f.note("abandon"); return "" }

// life runs a volume in a bubble of synthetic time.
func life(t *testing.T, f *fake, test func(v *Volume)) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		f.clock = func() time.Duration { return time.Since(start) + time.Duration(f.skew.Load()) }
		if f.lease == 0 {
			f.lease = time.Minute
		}
		if f.status == "" {
			f.status = api.KeyApproved
		}
		v := New(api.AssignedDevice{ID: "d", Name: "data"}, "/dev/null", Options{Courier: f, Platform: f, Boottime: f.clock, Now: time.Now,
			LeaseCheck: time.Second, LeaseMode: api.RevokeUnmount, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
			Backoff: func(int) time.Duration { return 10 * time.Second }})
		defer func() {
			if err := v.Close(context.Background(), "test over"); err != nil {
				t.Error(err)
			}
			for i, k := range f.keys {
				if k.Len() != 0 {
					t.Errorf("key %d was not wiped", i)
				}
			}
		}()
		test(v)
	})
}

func want(t *testing.T, v *Volume, s State) {
	t.Helper()
	var got State
	for range 100 { // wiping a key takes a moment of its own
		synctest.Wait()
		if got = v.Snapshot().State; got == s {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("the volume is %s, want %s", got, s)
}

func TestVolume_asksUntilTheBrokerCanBeReached(t *testing.T) {
	f := &fake{fileErr: errors.New("no route to host")}
	life(t, f, func(v *Volume) {
		v.Ask("start", "")
		want(t, v, Locked)
		time.Sleep(35 * time.Second)
		f.mu.Lock()
		asked := f.files
		f.mu.Unlock()
		if asked != 4 {
			t.Errorf("asked %d times in 35 s with a back-off of 10 s, want 4", asked)
		}
		f.mu.Lock()
		f.fileErr = nil
		f.mu.Unlock()
		time.Sleep(10 * time.Second)
		want(t, v, Mounted)
	})
}

func TestVolume_leaseEndsAsThePolicySays(t *testing.T) {
	f := &fake{mode: api.RevokeSuspend}
	life(t, f, func(v *Volume) {
		v.Ask("start", "")
		want(t, v, Mounted)
		f.decide(api.KeyPending) // nobody approves again
		time.Sleep(70 * time.Second)
		want(t, v, Suspended)
		if !slices.Contains(f.did, "hold") {
			t.Errorf("did %v, want requests held", f.did)
		}
	})
}

func TestVolume_leaseIsRenewedOrEnds(t *testing.T) {
	f := &fake{}
	life(t, f, func(v *Volume) {
		v.Ask("start", "")
		want(t, v, Mounted)
		time.Sleep(50 * time.Second)
		v.Renew(api.Lease{RequestID: "another request"}, f.clock()+time.Hour)
		v.Renew(api.Lease{RequestID: "request"}, f.clock()+time.Minute)
		time.Sleep(58 * time.Second)
		want(t, v, Mounted)
		f.decide(api.KeyPending) // nobody approves again
		time.Sleep(4 * time.Second)
		if s := v.Snapshot().State; s == Mounted || s.HoldsKey() {
			t.Errorf("after its lease the volume is %s", s)
		}
		if !slices.Contains(f.events, api.EventRevoked) {
			t.Errorf("reported %v", f.events)
		}
	})
}

// A machine that slept, or was stopped and went on, finds its lease over: the key goes at the first look, whatever the date
// says and however often the broker is asked after.
func TestVolume_aClockThatJumpedEndsTheLease(t *testing.T) {
	for _, mode := range []api.RevokeMode{api.RevokeUnmount, api.RevokeSuspend} {
		f := &fake{mode: mode}
		life(t, f, func(v *Volume) {
			v.Ask("start", "")
			want(t, v, Mounted)
			f.decide(api.KeyPending)
			f.skew.Store(int64(59 * time.Second))
			time.Sleep(900 * time.Millisecond)
			if s := v.Snapshot(); s.State != Mounted || s.LeaseSeconds > 1 {
				t.Errorf("moments before the end: %s, %d s left", s.State, s.LeaseSeconds)
			}
			f.skew.Store(int64(time.Hour))
			v.Renew(api.Lease{RequestID: "request"}, f.clock()+time.Hour) // an answer that came while it slept
			time.Sleep(2 * time.Second)
			if s := v.Snapshot().State; s.HoldsKey() {
				t.Errorf("%s: after the jump the volume is %s", mode, s)
			}
			if mode == api.RevokeSuspend {
				want(t, v, Suspended)
			}
		})
	}
}

func TestVolume_showsWhatAFailedCheckThreatens(t *testing.T) {
	f := &fake{}
	life(t, f, func(v *Volume) {
		v.Ask("start", "")
		want(t, v, Mounted)
		at := time.Now().Add(time.Minute)
		failed := api.Lease{RequestID: "request", Status: api.KeyRevokePending, Integrity: api.IntegrityFailed, RevokeAt: &at, Reason: "port 80 is open"}
		v.Renew(failed, f.clock()+time.Minute)
		if s := v.Snapshot(); s.RevokeAt == nil || s.Warning != "port 80 is open" || s.Integrity != api.IntegrityFailed {
			t.Errorf("the machine shows no warning: %+v", s)
		}
		v.Renew(api.Lease{RequestID: "request", Status: api.KeyDelivered, Integrity: api.IntegrityGood}, f.clock()+time.Minute)
		if s := v.Snapshot(); s.RevokeAt != nil || s.Warning != "" || s.Integrity != api.IntegrityGood {
			t.Errorf("the warning stays: %+v", s)
		}
	})
}

func TestVolume_revokeInterruptsAMountThatHangs(t *testing.T) {
	f := &fake{mount: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	life(t, f, func(v *Volume) {
		v.Ask("start", "")
		want(t, v, Exported)
		v.TakeBack("request", api.RevokeUnmount, "not fit")
		want(t, v, Locked)
		if slices.Contains(f.events, api.EventFailed) || !slices.Contains(f.events, api.EventRevoked) {
			t.Errorf("reported %v, want revoked and no failure", f.events)
		}
	})
}

func TestVolume_lateApprovalDoesNotMountAStoppedVolume(t *testing.T) {
	f := &fake{status: api.KeyPending}
	life(t, f, func(v *Volume) {
		v.Ask("start", "")
		want(t, v, Waiting)
		if err := v.Stop(context.Background(), "by hand"); err != nil {
			t.Fatal(err)
		}
		f.decide(api.KeyApproved)
		time.Sleep(time.Minute)
		want(t, v, Locked)
		if len(f.did) != 0 {
			t.Errorf("did %v", f.did)
		}
	})
}

func TestVolume_busyOneIsHeldAndResumesOrIsAbandoned(t *testing.T) {
	f := &fake{held: true}
	life(t, f, func(v *Volume) {
		v.Ask("start", "")
		want(t, v, Mounted)
		v.TakeBack("request", api.RevokeUnmount, "not fit")
		want(t, v, Suspended)
		f.decide(api.KeyApproved)
		time.Sleep(2 * time.Second)
		want(t, v, Mounted)
		v.TakeBack("request", api.RevokeSuspend, "again")
		want(t, v, Suspended)
		if err := v.Stop(context.Background(), "agent stops"); err != nil {
			t.Fatal(err)
		}
		want(t, v, Locked)
		if w := []string{"open", "mount", "give up", "resume", "hold", "abandon"}; !slices.Equal(f.did, w) {
			t.Errorf("did %v, want %v", f.did, w)
		}
	})
}

func TestVolume_anExpiredRequestIsReplacedUnlessItWasRevoked(t *testing.T) {
	f := &fake{status: api.KeyPending}
	life(t, f, func(v *Volume) {
		v.Ask("start", "")
		want(t, v, Waiting)
		f.decide(api.KeyExpired)
		f.mu.Lock()
		files := f.files
		f.mu.Unlock()
		time.Sleep(3 * time.Second)
		f.decide(api.KeyPending)
		time.Sleep(20 * time.Second)
		want(t, v, Waiting)
		if f.files != files+1 {
			t.Errorf("filed %d requests, want %d", f.files, files+1)
		}
		f.decide(api.KeyApproved)
		time.Sleep(2 * time.Second)
		want(t, v, Mounted)
		v.TakeBack("request", api.RevokeUnmount, "not fit")
		want(t, v, Locked)
		files = f.files
		f.decide(api.KeyExpired) // the period to comply again is over
		time.Sleep(time.Minute)
		want(t, v, Locked)
		if f.files != files {
			t.Error("asked by itself for a key that was revoked")
		}
	})
}

func TestVolume_askedAnewReplacesADeniedRequestOnly(t *testing.T) {
	f := &fake{status: api.KeyPending}
	life(t, f, func(v *Volume) {
		v.AskAnew("by hand")
		want(t, v, Waiting)
		v.AskAnew("by hand")
		want(t, v, Waiting)
		if f.files != 1 {
			t.Errorf("an undecided request was replaced (%d filed)", f.files)
		}
		f.decide(api.KeyDenied)
		time.Sleep(2 * time.Second)
		v.Ask("the device came back", "")
		want(t, v, Waiting)
		if f.files != 1 {
			t.Errorf("a denied request was replaced without a word (%d filed)", f.files)
		}
		v.AskAnew("by hand")
		want(t, v, Waiting)
		if f.files != 2 {
			t.Errorf("%d requests filed, want 2", f.files)
		}
	})
}

func TestBackoff_growsToAMinuteWithJitter(t *testing.T) {
	for n, most := range map[int]time.Duration{0: time.Second, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 7: time.Minute, 1000: time.Minute} {
		for range 100 {
			if d := Backoff(n); d < most/2 || d > most {
				t.Errorf("attempt %d waits %s, want %s to %s", n, d, most/2, most)
			}
		}
	}
}
