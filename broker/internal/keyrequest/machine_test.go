package keyrequest

import (
	"errors"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"keyward/broker/api"
)

var updateMachine = flag.Bool("update-machine", false, "write the machine's table anew")

// columns of the table below; "new" is a request that was not judged yet.
var columns = []api.KeyStatus{"", api.KeyPending, api.KeyApproved, api.KeyDelivered, api.KeyDenied, api.KeyRevokePending, api.KeyRevokeIgnored,
	api.KeyRevoking, api.KeyRevoked, api.KeyExpired, api.KeyFailure}

var short = map[string]api.KeyStatus{"Pend": api.KeyPending, "Appr": api.KeyApproved, "Deli": api.KeyDelivered, "Deny": api.KeyDenied, "RevP": api.KeyRevokePending,
	"RevI": api.KeyRevokeIgnored, "Rvkg": api.KeyRevoking, "Rvkd": api.KeyRevoked, "Expi": api.KeyExpired, "Fail": api.KeyFailure}

// specification is the machine of features.md as people read it: every event, in its circumstances, in every state.
// A dot is a refusal.
const specification = `
event                        new  Pend Appr Deli Deny RevP RevI Rvkg Rvkd Expi Fail
asked good approve           Appr .    .    .    .    .    .    .    .    .    .
asked good manual            Pend .    .    .    .    .    .    .    .    .    .
asked good deny              Deny .    .    .    .    .    .    .    .    .    .
asked bad approve            Appr .    .    .    .    .    .    .    .    .    .
asked bad manual             Pend .    .    .    .    .    .    .    .    .    .
asked bad deny               Deny .    .    .    .    .    .    .    .    .    .
asked unknown manual         Pend .    .    .    .    .    .    .    .    .    .
asked unknown approve        Pend .    .    .    .    .    .    .    .    .    .
asked unknown deny           Pend .    .    .    .    .    .    .    .    .    .
asked good nonsense          Pend .    .    .    .    .    .    .    .    .    .
asked good approve person    Pend .    .    .    .    .    .    .    .    .    .
asked good deny person       Deny .    .    .    .    .    .    .    .    .    .
asked good manual former     Appr .    .    .    .    .    .    .    .    .    .
asked bad manual former      Pend .    .    .    .    .    .    .    .    .    .
asked good deny former       Deny .    .    .    .    .    .    .    .    .    .
asked good manual former person  Pend .    .    .    .    .    .    .    .    .    .
policy-assigned good approve .    Appr .    .    .    .    .    .    .    .    .
policy-assigned bad manual   .    Pend .    .    .    .    .    .    .    .    .
policy-assigned bad deny     .    Deny .    .    .    .    .    .    .    .    .
policy-assigned good approve person .    Pend .    .    .    .    .    .    .    .    .
re-appraised good approve    .    Appr .    .    .    .    .    .    .    .    .
re-appraised good manual     .    Pend .    .    .    .    .    .    .    .    .
re-appraised good manual former .  Appr .    .    .    .    .    .    .    .    .
re-appraised good manual former person . Pend .   .    .    .    .    .    .    .    .
re-appraised bad deny        .    Deny .    .    .    .    .    .    .    .    .
seconded                     .    Pend .    .    .    .    .    .    .    .    .
seconded rated-mismatch      .    .    .    .    .    .    .    .    .    .    .
seconded enough              .    .    .    .    .    .    .    .    .    .    .
approved                     .    .    .    .    .    .    .    .    .    .    .
approved enough              .    Appr .    .    .    .    .    .    .    .    .
approved enough rated-mismatch .  .    .    .    .    .    .    .    .    .    .
approved enough rated-norules .   Appr .    .    .    .    .    .    .    .    .
approved enough rated-bad    .    Appr .    .    .    .    .    .    .    .    .
denied                       .    Deny Deny .    .    .    .    .    .    .    .
timer due                    .    Appr .    .    .    .    .    .    .    .    .
timer                        .    .    .    .    .    .    .    .    .    .    .
timer due person             .    .    .    .    .    .    .    .    .    .    .
timer due rated-bad          .    .    .    .    .    .    .    .    .    .    .
timer due rated-norules      .    .    .    .    .    .    .    .    .    .    .
delivered                    .    .    Deli .    .    .    .    .    .    .    .
mounted                      .    .    .    Deli .    RevP RevI Rvkg .    .    .
unmounted                    .    .    Appr Expi .    Expi Expi Rvkd Rvkd Expi Fail
agent-revoked                .    .    Appr Rvkd .    Rvkd Rvkd Rvkd Rvkd Expi Fail
failed                       .    Fail Fail Fail .    Fail Fail Rvkg .    .    .
check-failed bad             .    .    .    .    .    RevP RevI .    .    .    .
check-failed bad notify      .    .    Appr Deli .    RevP RevI .    .    .    .
check-failed bad revoke      .    .    Pend Rvkg .    RevP RevI .    .    .    .
check-failed bad postpone    .    .    Pend RevP .    RevP RevI .    .    .    .
check-failed good revoke     .    .    .    .    .    .    .    .    .    .    .
check-failed unknown revoke  .    .    .    .    .    .    .    .    .    .    .
check-passed good            .    .    Appr Deli .    Deli Deli .    .    .    .
check-passed bad             .    .    .    .    .    .    .    .    .    .    .
check-passed bad accepted    .    .    Appr Deli .    Deli Deli .    .    .    .
check-failed bad accepted revoke .    .    .    .    .    .    .    .    .    .    .
check-overdue                .    .    .    Deli .    RevP RevI .    .    .    .
check-passed unknown         .    .    .    .    .    .    .    .    .    .    .
ignored                      .    .    .    .    .    RevI .    .    .    .    .
due                          .    .    .    .    .    Rvkg .    .    .    .    .
revoked-by-person            .    .    .    Rvkg .    Rvkg Rvkg Rvkg Rvkd .    .
quarantined                  .    Deny Deny Rvkg .    Rvkg Rvkg Rvkg Rvkd .    .
lease-ended                  .    .    .    Rvkd .    Rvkd Rvkd Rvkd .    .    .
overdue                      .    .    .    .    .    .    .    Rvkg .    .    .
complies-again good approve rechecks .    .    .    .    Appr .    .    .    Appr .    .
complies-again good manual rechecks  .    .    .    .    Pend .    .    .    Appr .    .
complies-again good deny rechecks    .    .    .    .    .    .    .    .    .    .    .
complies-again bad approve rechecks  .    .    .    .    Appr .    .    .    .    .    .
complies-again good approve  .    .    .    .    .    .    .    .    .    .    .
complies-again good approve rechecks person .    .    .    .    .    .    .    .    .    .    .
period-over                  .    .    .    .    .    .    .    .    Expi .    .
instance-missing             .    Expi Expi Deli .    RevP RevI Rvkg Expi .    .
expired                      .    Expi Expi .    .    .    .    .    Expi .    .
superseded                   .    Expi Expi Expi .    Expi Expi Rvkd Expi .    .
`

// circumstance adds what a word of the specification says. A policy decides unless "person" says otherwise.
func circumstance(t testing.TB, word string, s *State, c *Ctx) {
	switch word {
	case "good":
		c.Verdict.Integrity = api.IntegrityGood
	case "bad":
		c.Verdict.Integrity = api.IntegrityBad
	case "unknown":
		c.Verdict.Integrity = api.IntegrityUnknownMismatch
	case "approve", "manual", "deny", "nonsense":
		c.Verdict.Action = api.Action(word)
	case "person":
		c.PolicyDecides = false
	case "former":
		c.Former = &State{Status: api.KeyDelivered, Integrity: api.IntegrityGood}
	case "enough":
		c.Enough = true
	case "due":
		c.TimerDue = true
	case "accepted":
		c.Accepted = true
	case "rechecks":
		c.ScheduledChecks = true
	case "notify", "revoke", "postpone":
		c.OnCheckFailed = CheckAction(word)
	case "rated-bad":
		s.Integrity = api.IntegrityBad
	case "rated-mismatch":
		s.Integrity = api.IntegrityUnknownMismatch
	case "rated-norules":
		s.Integrity = api.IntegrityUnknownNoRules
	default:
		t.Fatalf("the specification says %q", word)
	}
}

func TestMachine_everyEventInEveryState(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSpace(specification), "\n")
	seen := map[Event]bool{}
	for _, line := range lines[1:] {
		words := strings.Fields(line)
		head, cells := words[:len(words)-len(columns)], words[len(words)-len(columns):]
		event := Event(head[0])
		seen[event] = true
		for i, from := range columns {
			s, c := State{Status: from, Integrity: api.IntegrityGood}, Ctx{PolicyDecides: true}
			if from == "" {
				s.Integrity = ""
			}
			for _, word := range head[1:] {
				circumstance(t, word, &s, &c)
			}
			res, err := Apply(s, event, c)
			var refused *Refused
			switch {
			case cells[i] == ".":
				if !errors.As(err, &refused) || refused.Help == "" || !strings.Contains(err.Error(), refused.Help) {
					t.Errorf("%s in %q: %v, %v; want a refusal with help", strings.Join(head, " "), from, res.Next, err)
				}
				if res.Next != (State{}) || res.Effects != nil {
					t.Errorf("%s in %q: a refusal with effects %v", strings.Join(head, " "), from, res)
				}
			case err != nil || res.Next.Status != short[cells[i]]:
				t.Errorf("%s in %q: %v, %v; want %s", strings.Join(head, " "), from, res.Next, err, cells[i])
			}
		}
	}
	for e := range help {
		if !seen[e] {
			t.Errorf("the specification lacks %s", e)
		}
	}
	for _, r := range table.Rows {
		if help[r.Event] == "" {
			t.Errorf("no help for %s", r.Event)
		}
	}
}

func TestMachine_integrityFollowsTheVerdict(t *testing.T) {
	t.Parallel()
	good, bad := api.Verdict{Integrity: api.IntegrityGood, Action: api.ActionManual}, api.Verdict{Integrity: api.IntegrityBad, Action: api.ActionManual}
	for _, c := range []struct {
		name  string
		from  State
		event Event
		ctx   Ctx
		want  api.Integrity
	}{
		{"asked", State{}, EventAsked, Ctx{Verdict: bad}, api.IntegrityBad},
		{"assigned to another policy", State{api.KeyPending, api.IntegrityUnknownDevPolicy}, EventPolicyAssigned, Ctx{Verdict: good}, api.IntegrityGood},
		{"newer evidence", State{api.KeyPending, api.IntegrityGood}, EventReappraised, Ctx{Verdict: bad}, api.IntegrityBad},
		{"approved by a person", State{api.KeyPending, api.IntegrityBad}, EventApproved, Ctx{Enough: true}, api.IntegrityBad},
		{"a later check fails (F-03)", State{api.KeyDelivered, api.IntegrityGood}, EventCheckFailed, Ctx{Verdict: bad, OnCheckFailed: CheckNotify}, api.IntegrityFailed},
		{"and passes again", State{api.KeyRevokePending, api.IntegrityFailed}, EventCheckPassed, Ctx{Verdict: good}, api.IntegrityGood},
		{"revoked", State{api.KeyDelivered, api.IntegrityFailed}, EventRevokedByPerson, Ctx{}, api.IntegrityFailed},
	} {
		res, err := Apply(c.from, c.event, c.ctx)
		if err != nil || res.Next.Integrity != c.want {
			t.Errorf("%s: %v, %v; want %s", c.name, res.Next, err, c.want)
		}
	}
}

func TestMachine_effects(t *testing.T) {
	t.Parallel()
	good, bad := api.Verdict{Integrity: api.IntegrityGood, Action: api.ActionManual, ApproveAfterSeconds: 60}, api.Verdict{Integrity: api.IntegrityBad, Action: api.ActionManual}
	delivered := State{api.KeyDelivered, api.IntegrityGood}
	for _, c := range []struct {
		name  string
		from  State
		event Event
		ctx   Ctx
		want  string
	}{
		{"a match that waits gets a timer (I-04)", State{}, EventAsked, Ctx{Verdict: good, PolicyDecides: true}, "arm-timer audit(key-request.pending) notify(approval-needed)"},
		{"a mismatch never does (Z-11)", State{}, EventAsked, Ctx{Verdict: bad, PolicyDecides: true}, "disarm-timer audit(key-request.pending) notify(approval-needed)"},
		{"nor what a person took away", State{}, EventAsked, Ctx{Verdict: good}, "disarm-timer audit(key-request.pending) notify(approval-needed)"},
		{"newer evidence that fails stops the timer", State{api.KeyPending, api.IntegrityGood}, EventReappraised, Ctx{Verdict: bad, PolicyDecides: true}, "disarm-timer audit(key-request.judged-again)"},
		{"a key is sealed and leased when it leaves", State{api.KeyApproved, api.IntegrityGood}, EventDelivered, Ctx{}, "seal-key start-lease audit(key-request.delivered)"},
		{"revocation stops renewal and tells the agent", delivered, EventRevokedByPerson, Ctx{}, "disarm-revoke stop-renewal send-revoke audit(key-request.revoke-asked)"},
		{"as a failed check does", delivered, EventCheckFailed, Ctx{Verdict: bad, OnCheckFailed: CheckRevoke}, "audit(integrity.failed) notify(integrity-failed) disarm-revoke stop-renewal send-revoke"},
		{"or after the grace period (I-07)", delivered, EventCheckFailed, Ctx{Verdict: bad, OnCheckFailed: CheckPostpone}, "audit(integrity.failed) notify(integrity-failed) arm-revoke"},
		{"people hear of a failure once (F-06)", State{api.KeyDelivered, api.IntegrityFailed}, EventCheckFailed, Ctx{Verdict: bad, OnCheckFailed: CheckNotify}, ""},
		{"and of its end", State{api.KeyDelivered, api.IntegrityFailed}, EventCheckPassed, Ctx{Verdict: good}, "audit(integrity.restored)"},
		{"a check that passes as before is no news", delivered, EventCheckPassed, Ctx{Verdict: good}, ""},
		{"the lease ends without contact", delivered, EventLeaseEnded, Ctx{}, "end-lease mark-unmounted disarm-revoke audit(key-request.lease-ended) notify(lease-ended)"},
		{"the agent confirms (J-10)", State{api.KeyRevoking, api.IntegrityGood}, EventAgentRevoked, Ctx{}, "end-lease mark-unmounted audit(key-request.revoked)"},
		{"a late report changes nothing, the device may be mounted anew", State{api.KeyExpired, api.IntegrityGood}, EventUnmounted, Ctx{}, ""},
		{"a mount that crossed the revocation", State{api.KeyRevoking, api.IntegrityGood}, EventMounted, Ctx{}, "mark-mounted send-revoke audit(key.mounted)"},
	} {
		res, err := Apply(c.from, c.event, c.ctx)
		var got []string
		for _, e := range res.Effects {
			got = append(got, e.String())
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, %v; want %s", c.name, got, err, c.want)
		}
	}
	res, err := Apply(delivered, EventLeaseEnded, Ctx{})
	if err != nil {
		t.Fatal(err)
	}
	res.Effects[0] = Effect{Kind: "changed"}
	if again, err := Apply(delivered, EventLeaseEnded, Ctx{}); err != nil || again.Effects[0].Kind == "changed" {
		t.Error("a caller can change the table")
	}
}

// Whoever asks again within the lease must be no worse off than when the key was approved, and not better by trickery.
func TestMachine_redeliveryWithinTheLease(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		former *State
		now    api.Integrity
		action api.Action
		person bool
		want   api.KeyStatus
	}{
		{"as good as before", &State{api.KeyDelivered, api.IntegrityGood}, api.IntegrityGood, api.ActionManual, false, api.KeyApproved},
		{"as bad as when a person approved it", &State{api.KeyDelivered, api.IntegrityBad}, api.IntegrityBad, api.ActionManual, false, api.KeyApproved},
		{"better", &State{api.KeyDelivered, api.IntegrityBad}, api.IntegrityGood, api.ActionManual, false, api.KeyApproved},
		{"without rules, as before", &State{api.KeyDelivered, api.IntegrityUnknownNoRules}, api.IntegrityUnknownNoRules, api.ActionManual, false, api.KeyApproved},
		{"worse", &State{api.KeyDelivered, api.IntegrityGood}, api.IntegrityBad, api.ActionManual, false, api.KeyPending},
		{"rules lost", &State{api.KeyDelivered, api.IntegrityGood}, api.IntegrityUnknownNoRules, api.ActionManual, false, api.KeyPending},
		{"moved out of the policy", &State{api.KeyDelivered, api.IntegrityUnknownDevPolicy}, api.IntegrityUnknownDevPolicy, api.ActionManual, false, api.KeyPending},
		{"bad after a failed check", &State{api.KeyDelivered, api.IntegrityFailed}, api.IntegrityBad, api.ActionManual, false, api.KeyPending},
		{"the policy denies by now", &State{api.KeyDelivered, api.IntegrityBad}, api.IntegrityBad, api.ActionDeny, false, api.KeyDenied},
		{"revoked by a person", &State{api.KeyDelivered, api.IntegrityGood}, api.IntegrityGood, api.ActionApprove, true, api.KeyPending},
		{"revocation pending", &State{api.KeyRevokePending, api.IntegrityGood}, api.IntegrityGood, api.ActionManual, false, api.KeyPending},
		{"being revoked", &State{api.KeyRevoking, api.IntegrityGood}, api.IntegrityGood, api.ActionManual, false, api.KeyPending},
		{"approved and never delivered", &State{api.KeyApproved, api.IntegrityGood}, api.IntegrityGood, api.ActionManual, false, api.KeyPending},
		{"no earlier request", nil, api.IntegrityGood, api.ActionManual, false, api.KeyPending},
	} {
		res, err := Apply(State{}, EventAsked, Ctx{Verdict: api.Verdict{Integrity: c.now, Action: c.action}, Former: c.former, PolicyDecides: !c.person})
		if err != nil || res.Next.Status != c.want {
			t.Errorf("%s: %v, %v; want %s", c.name, res.Next, err, c.want)
		}
	}
}

func TestMachine_statusQuestions(t *testing.T) {
	t.Parallel()
	for _, s := range columns {
		renewed := s == api.KeyDelivered || s == api.KeyRevokePending || s == api.KeyRevokeIgnored
		if LeaseRenewed(s) != renewed || KeyOut(s) != (renewed || s == api.KeyRevoking) || Ended(s) != (s == api.KeyDenied || s == api.KeyExpired || s == api.KeyFailure) {
			t.Errorf("%q: renewed %v, out %v, ended %v", s, LeaseRenewed(s), KeyOut(s), Ended(s))
		}
		// What may be out can be taken back, and only that.
		if Accepts(s, EventLeaseEnded) != KeyOut(s) || Accepts(s, EventQuarantined) != (KeyOut(s) || slices.Contains([]api.KeyStatus{api.KeyPending, api.KeyApproved, api.KeyRevoked}, s)) {
			t.Errorf("%q cannot be taken back as it should", s)
		}
	}
}

func TestTable_isWhatTheDocumentationShows(t *testing.T) {
	t.Parallel()
	checkGolden(t, "testdata/machine.md", Table())
}

func checkGolden(t *testing.T, path, got string) {
	t.Helper()
	if *updateMachine {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the machine changed: check it against the features, then run the test with -update-machine\n%s", got)
	}
}
