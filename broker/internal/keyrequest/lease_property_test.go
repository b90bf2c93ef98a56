package keyrequest

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"keyward/broker/api"
)

// holder is an agent with a key: it counts its lease from when it sent the call that was answered, and looks at it now
// and then.
type holder struct {
	has bool
	end time.Duration
}

// answer is a broker's answer on its way to the agent: leases count from when the call was sent.
type answer struct {
	sent, arrives time.Duration
	key           bool // a delivery; else a heartbeat's
	renews        bool
	revoke        bool
}

// A broker and an agent, each with a clock, and a network that loses and delays what it likes. Whatever checks, people and
// time do, the key is gone from the agent when its lease is over, and when the broker counts it as gone.
func TestLease_noPathLeavesAKeyWithAnAgentPastIt(t *testing.T) {
	t.Parallel()
	const step, look = time.Second, 2 * time.Second // look is how often the agent looks at its lease
	ended := 0
	rapid.Check(t, func(t *rapid.T) {
		lease := time.Duration(rapid.Int64Range(10, 60).Draw(t, "lease")) * time.Second
		s, leaseEnd := State{api.KeyApproved, api.IntegrityGood}, time.Duration(-1)
		agent, way := holder{}, []answer{}
		delivered := false
		for now := time.Duration(0); now < 4*time.Minute; now += step {
			move := func(e Event, c Ctx) bool {
				res, err := Apply(s, e, c)
				if err != nil {
					return false
				}
				s = res.Next
				for _, f := range res.Effects {
					switch f.Kind {
					case EffectStartLease:
						leaseEnd = now + lease
					case EffectEndLease:
						leaseEnd = -1
					}
				}
				return true
			}
			up := rapid.SampledFrom([]bool{true, true, true, false}).Draw(t, "network")
			send := func(a answer) { // the call reaches the broker; its answer may come late or never
				if delay := rapid.IntRange(0, 14).Draw(t, "delay"); delay <= 10 {
					a.sent, a.arrives = now, now+time.Duration(delay)*time.Second
					way = append(way, a)
				}
			}
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0:
				if up && s.Status == api.KeyApproved && !agent.has && !delivered && move(EventDelivered, Ctx{}) {
					delivered = true
					send(answer{key: true})
				}
			case 1, 2, 3:
				if up && agent.has {
					renews := LeaseRenewed(s.Status)
					if renews {
						leaseEnd = now + lease
					}
					send(answer{renews: renews, revoke: s.Status == api.KeyRevoking})
				}
			case 4:
				c := drawCtx(t)
				move(rapid.SampledFrom([]Event{EventCheckFailed, EventCheckPassed, EventCompliesAgain, EventIgnored, EventDue, EventCheckOverdue, EventInstanceMissing}).Draw(t, "event"), c)
				delivered = delivered && s.Status != api.KeyApproved
			case 5:
				move(EventRevokedByPerson, Ctx{})
			}
			if leaseEnd >= 0 && now >= leaseEnd+LeaseMargin && KeyOut(s.Status) {
				move(EventLeaseEnded, Ctx{})
				ended++
			}
			// The agent: first what arrives, unless it is too old to be believed, then its own clock.
			way = slices.DeleteFunc(way, func(a answer) bool {
				if a.arrives > now {
					return false
				}
				believed := a.arrives-a.sent <= LeaseMargin
				switch {
				case !believed:
				case a.key && a.sent+lease > now:
					agent = holder{true, a.sent + lease}
				case a.renews && agent.has && now < agent.end:
					agent.end = max(agent.end, a.sent+lease)
				case a.revoke && agent.has:
					agent.has = false
					move(EventAgentRevoked, Ctx{})
				}
				return true
			})
			if agent.has && now >= agent.end {
				agent.has = false
			}
			if agent.has && now >= agent.end+look {
				t.Fatalf("at %s the agent has a key whose lease ended at %s", now, agent.end)
			}
			if agent.has && !KeyOut(s.Status) {
				t.Fatalf("at %s the broker counts the request as %s, and the agent has the key until %s", now, s.Status, agent.end)
			}
			if KeyOut(s.Status) && leaseEnd < 0 {
				t.Fatalf("at %s a key is out without a lease: %s", now, s.Status)
			}
		}
	})
	if ended == 0 {
		t.Error("no lease ended: the test shows nothing")
	}
}
