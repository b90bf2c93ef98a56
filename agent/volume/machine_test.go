package volume

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// What each state does with each event. A line that is missing here is an event that the state refuses.
var specification = map[State]map[Event]State{
	Discovered: {Ask: Requested, Revoke: Discovered, Suspend: Discovered, Stop: Discovered},
	Requested:  {Ask: Requested, Filed: Waiting, NotFiled: Locked, Revoke: Requested, Suspend: Requested, Stop: Locked},
	Waiting: {Ask: Waiting, Renew: Requested, Granted: Unlocked, Closed: Locked, Lapsed: Locked, Revoke: Waiting, Suspend: Waiting,
		Stop: Locked},
	Unlocked: {Ask: Unlocked, Opened: Exported, Failed: Locked, Revoke: Locking, Suspend: Locking, LeaseEnd: Locking,
		LeasePause: Locking, Stop: Locking},
	Exported: {Ask: Exported, MountDone: Mounted, Failed: Locking, Revoke: Locking, Suspend: Locking, LeaseEnd: Locking,
		LeasePause: Locking, Stop: Locking},
	Mounted: {Ask: Mounted, Revoke: Locking, Suspend: Locking, LeaseEnd: Locking, LeasePause: Locking, Stop: Locking},
	Locking: {Gone: Locked, Held: Suspended},
	Suspended: {Ask: Suspended, Filed: Suspended, NotFiled: Suspended, Granted: Suspended, Closed: Suspended, Lapsed: Suspended,
		Resumed: Mounted, Failed: Suspended, Revoke: Suspended, Suspend: Suspended, LeaseEnd: Suspended, LeasePause: Suspended,
		Stop: Locking},
	Locked: {Ask: Requested, Granted: Unlocked, Closed: Locked, Lapsed: Locked, Revoke: Locked, Suspend: Locked, LeaseEnd: Locked,
		LeasePause: Locked, Stop: Locked},
}

func TestApply_everyStateAndEvent(t *testing.T) {
	for _, s := range States {
		for _, e := range Events {
			step, err := Apply(s, e)
			want, allowed := specification[s][e]
			if allowed != (err == nil) {
				t.Errorf("%s + %s: allowed = %v, want %v", s, e, err == nil, allowed)
				continue
			}
			if !allowed {
				want = s
			}
			if step.Next != want {
				t.Errorf("%s + %s goes to %s, want %s", s, e, step.Next, want)
			}
		}
	}
}

// A key is given up in every state that holds one, whatever takes it away, and the broker hears of it after it is true.
func TestApply_whatTakesTheKeyAwayEndsWithoutIt(t *testing.T) {
	for _, s := range States {
		if !s.HoldsKey() || s == Locking {
			continue
		}
		for _, e := range Events {
			if !e.takesAway() {
				continue
			}
			step, err := Apply(s, e)
			if err != nil {
				t.Errorf("%s does not react to %s", s, e)
				continue
			}
			gone := slices.IndexFunc(step.Effects, func(f Effect) bool { return f == GiveUp || f == Hold })
			report := slices.IndexFunc(step.Effects, func(f Effect) bool {
				return f == ReportRevoked || f == ReportSuspended || f == ReportUnmounted
			})
			if gone < 0 || report < gone {
				t.Errorf("%s + %s does %v: the key must go, and then be reported", s, e, step.Effects)
			}
			if e == Stop && !slices.Contains(step.Effects, DropRequest) {
				t.Errorf("%s + stop would be mounted again by a late approval", s)
			}
		}
	}
}

// ends are the events in which a long effect can end.
var ends = map[Effect][]Event{FileRequest: {Filed, NotFiled}, Open: {Opened, Failed}, Mount: {MountDone, Failed}, Resume: {Resumed, Failed},
	GiveUp: {Gone, Held}, Hold: {Held}, Abandon: {Gone}}

// world is what the effects make of a volume: the truth that a state claims.
type world struct {
	key, attached, mounted, waiting bool
	running                         Effect
}

func (w *world) start(e Effect) {
	switch e {
	case AwaitDecision:
		w.waiting = true
	case DropRequest:
		w.waiting = false
	}
	if _, long := ends[e]; long {
		w.running = e
	}
}

func (w *world) end(e Event) {
	switch e {
	case Granted:
		w.key, w.waiting = true, false
	case Closed, Lapsed:
		w.waiting = false
	case Opened:
		w.attached = true
	case MountDone, Resumed:
		w.mounted = true
	case Gone:
		*w = world{waiting: w.waiting}
	case Held:
		w.key = false
	case Failed:
		w.key = w.key && w.running == Mount // Open and Resume wipe the key when they fail
	}
	w.running = ""
}

// Whatever happens in whatever order, a state never claims what is not so.
func TestApply_statesTellTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		state, w := Discovered, world{}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			possible := []Event{Ask, Revoke, Suspend, LeaseEnd, LeasePause, Stop}
			if w.waiting {
				possible = append(possible, Granted, Closed, Lapsed)
			}
			if w.running != "" {
				possible = ends[w.running] // the volume handles nothing else meanwhile
				if w.running == GiveUp && !w.mounted {
					possible = []Event{Gone}
				}
			}
			e := rapid.SampledFrom(possible).Draw(t, "event")
			step, err := Apply(state, e)
			if err != nil {
				if w.running != "" || e == Stop || e == Granted {
					t.Fatalf("%v, though it can happen", err)
				}
				continue
			}
			w.end(e)
			state = step.Next
			for _, f := range step.Effects {
				w.start(f)
			}
			switch {
			case state == Mounted && !(w.key && w.attached && w.mounted):
				t.Fatalf("mounted, but %+v", w)
			case state == Locked && (w.key || w.attached):
				t.Fatalf("locked, but %+v", w)
			case state == Suspended && (w.key && w.running != Resume || !w.attached):
				t.Fatalf("suspended, but %+v", w)
			case w.key && !state.HoldsKey() && w.running != Resume:
				t.Fatalf("%s claims to hold no key, but %+v", state, w)
			case state == Locking && w.running == "":
				t.Fatal("locking, and nothing ends it")
			}
		}
	})
}
