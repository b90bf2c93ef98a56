package preview

import (
	"fmt"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/policy"
	"keyward/broker/internal/store"
)

// Subject is a device on a machine, with what is last known of it.
type Subject struct {
	Device   store.Device
	Instance store.Instance
	// Request is the machine's newest request for the device; nil when it never asked.
	Request *store.KeyRequest
	// AskPerson is why no policy gives the key here by itself; empty when one may. AskPersonPool is the same of a policy
	// that is a resource pool.
	AskPerson, AskPersonPool string
	// InUse names another machine that holds the device's key, so that this one could not have it; a volume to read from
	// may be shared.
	InUse string
}

// holdsKey says whether the machine may hold the key now.
func (s Subject) holdsKey() bool { return s.Request != nil && keyrequest.KeyOut(s.Request.Status) }

// facts are what the machine last said, and what the broker would vouch for if it asked now. Facts of the device itself
// come with key requests; heartbeats are newer in everything else.
func (s Subject) facts(now time.Time) (e api.Evidence, seen []api.Fact, known bool) {
	e = s.Instance.Evidence
	address := s.Instance.SourceIP
	if r := s.Request; r != nil {
		if e.CollectedAt.Before(r.Evidence.CollectedAt) || len(e.Facts) == 0 {
			e = r.Evidence
		} else {
			e = merged(e, r.Evidence)
		}
		seen = r.Observed
		if address == "" {
			address = r.SourceIP
		}
	}
	if len(e.Facts) == 0 {
		return e, nil, false
	}
	return e, over(seen, keyrequest.Observed(s.Instance, address, now)), true
}

// deviceFacts describe the device that a key is asked for, not the machine.
var deviceFacts = []api.FactName{api.FactMountPoint, api.FactAccessType}

// merged is a heartbeat's evidence with the facts of the device from its own request: a heartbeat may have described
// another device.
func merged(heartbeat, request api.Evidence) api.Evidence {
	aboutDevice := func(f api.Fact) bool { return slices.Contains(deviceFacts, f.Name) }
	facts := slices.DeleteFunc(slices.Clone(heartbeat.Facts), aboutDevice)
	for _, f := range request.Facts {
		if aboutDevice(f) {
			facts = append(facts, f)
		}
	}
	heartbeat.Facts = facts
	return heartbeat
}

// over is older facts with newer ones of the same name in their place. An address of the other family goes too: the
// machine would come from one address only.
func over(older, newer []api.Fact) []api.Fact {
	addresses := []api.FactName{api.FactSourceIPv4, api.FactSourceIPv6}
	isAddress := func(f api.Fact) bool { return slices.Contains(addresses, f.Name) }
	moved := slices.ContainsFunc(newer, isAddress)
	out := slices.Clone(newer)
	for _, f := range older {
		replaced := slices.ContainsFunc(newer, func(n api.Fact) bool { return n.Name == f.Name && n.Subject == f.Subject })
		if !replaced && !(moved && isAddress(f)) {
			out = append(out, f)
		}
	}
	return out
}

// Judge says what the policies of a world would do with a subject: whether a machine that holds the key would keep it if
// it were checked now, and what any other would get if it asked now.
func (w World) Judge(s Subject, now time.Time) api.Judgment {
	p := w.policies[w.of(s.Device.ID)]
	e, seen, known := s.facts(now)
	if !known {
		return api.Judgment{Policy: p.Name, Outcome: api.OutcomeUnknown, Reason: "The machine has not reported anything yet that could be judged."}
	}
	s.Device.PolicyID = p.ID
	v := policy.Appraise(p, keyrequest.Circumstances(p, w.images[p.ID][s.Instance.ImageID], s.Device, s.Instance, e, seen, now))
	if s.holdsKey() {
		return checked(p, v, *s.Request)
	}
	why := s.AskPerson
	if p.ResourcePool {
		why = s.AskPersonPool
	}
	if s.InUse != "" && s.Device.Access != api.AccessReadOnly {
		text := fmt.Sprintf("Machine %q holds the device's key read-write.", s.InUse)
		if p.ResourcePool { // another device of the pool may be free, which the broker would look for then
			why = text
		} else {
			j := judgment(p, v)
			j.Outcome, j.Reason = api.OutcomeDenied, text
			return j
		}
	}
	return asked(p, v, keyrequest.Ctx{Verdict: v, PolicyDecides: why == ""}, why)
}

// asked is where a verdict on a new request leads. why is the reason for which a person decides in any case.
func asked(p api.Policy, v api.Verdict, c keyrequest.Ctx, why string) api.Judgment {
	j := judgment(p, v)
	res, err := keyrequest.Apply(keyrequest.State{}, keyrequest.EventAsked, c)
	if err != nil {
		j.Reason = err.Error()
		return j
	}
	switch res.Next.Status {
	case api.KeyApproved:
		j.Outcome = api.OutcomeApproved
	case api.KeyDenied:
		j.Outcome = api.OutcomeDenied
	default:
		j.Outcome = api.OutcomeWaits
		if why != "" && v.Action == api.ActionApprove {
			j.Reason = why
		}
	}
	return j
}

// checked is where a verdict on a machine that holds the key leads when the policy checks it.
func checked(p api.Policy, v api.Verdict, r store.KeyRequest) api.Judgment {
	j := judgment(p, v)
	j.Outcome = api.OutcomeKeeps
	event, c, reason := keyrequest.Recheck(p, r, v)
	if event == "" {
		return j
	}
	res, err := keyrequest.Apply(keyrequest.State{Status: r.Status, Integrity: r.Integrity}, event, c)
	switch {
	case r.Status == api.KeyRevoking:
		j.Outcome, j.Reason = api.OutcomeRevoked, "It is being revoked."
	case err != nil:
		j.Reason = "A check changes nothing now. " + v.Reason
	case res.Next.Status == api.KeyRevoking:
		j.Outcome, j.Reason = api.OutcomeRevoked, reason
	case res.Next.Status == api.KeyRevokePending:
		j.Outcome, j.Reason = api.OutcomeRevokedLater, reason+" The policy postpones the revocation by "+(time.Duration(p.PostponeSeconds)*time.Second).String()+"."
	case event == keyrequest.EventCheckFailed:
		j.Reason = "It keeps its key: the policy notifies people and takes no key. " + reason
		if r.Status == api.KeyRevokeIgnored {
			j.Reason = "It keeps its key: a person ignored the failed check. " + reason
		}
	case c.Accepted && len(j.Failed) > 0:
		j.Reason = "It keeps its key: these rules had failed when it was approved."
	}
	return j
}

// judgment is a verdict without its outcome: unknown until the machine says where it leads.
func judgment(p api.Policy, v api.Verdict) api.Judgment {
	j := api.Judgment{Policy: p.Name, Outcome: api.OutcomeUnknown, Integrity: v.Integrity, Reason: v.Reason}
	for _, f := range v.Findings {
		if f.Status == api.RuleFailed {
			j.Failed = append(j.Failed, f)
		}
	}
	return j
}
