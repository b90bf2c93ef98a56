package dsm

import (
	"fmt"
	"time"

	"keyward/broker/api"
)

// Names are the facts that a manager supplies, in the order in which they are shown.
func Names() []api.FactName {
	return []api.FactName{api.FactDSMStatus, api.FactDSMAntiMalware, api.FactDSMWebReputation, api.FactDSMFirewall,
		api.FactDSMIntrusionPrevention, api.FactDSMIntegrityMonitoring, api.FactDSMLogInspection}
}

// Facts is what the manager says of the machine with the given ID in the broker. What is unknown is missing, with the reason.
func (w *Watch) Facts(id string, m Machine) []api.Fact {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.clock()
	if why := w.stale(now); why != "" {
		return missing(why, w.at)
	}
	c, by, err := find(m, w.computers)
	if err != nil {
		return missing(err.Error(), w.at)
	}
	// Nearly all that a machine is found by is its own word. Two that claim to be the same computer are not judged by it.
	if other, ok := w.claims[c.ID]; ok && other.id != id && now.Sub(other.at) < believed {
		return missing(fmt.Sprintf("computer %d of the manager is claimed by another machine of this broker too", c.ID), w.at)
	}
	w.claims[c.ID] = claim{id, now}
	source := fmt.Sprintf("Deep Security Manager, computer %d, found by %s", c.ID, by)
	light, lit := c.Status.light()
	facts := []api.Fact{fact(api.FactDSMStatus, source, light, lit, w.at)}
	for _, part := range []struct {
		name api.FactName
		m    Module
	}{{api.FactDSMAntiMalware, c.AntiMalware}, {api.FactDSMWebReputation, c.WebReputation}, {api.FactDSMFirewall, c.Firewall},
		{api.FactDSMIntrusionPrevention, c.IntrusionPrevention}, {api.FactDSMIntegrityMonitoring, c.IntegrityMonitoring},
		{api.FactDSMLogInspection, c.LogInspection}} {
		value, known := part.m.value()
		facts = append(facts, fact(part.name, source, value, known, w.at))
	}
	return facts
}

// stale says why the picture is not to be believed; empty when it is.
func (w *Watch) stale(now time.Time) string {
	switch {
	case w.at.IsZero() && w.err != nil:
		return "the Deep Security Manager has not answered: " + w.err.Error()
	case w.at.IsZero():
		return "the Deep Security Manager has not answered yet"
	case now.Sub(w.at) > believed:
		return fmt.Sprintf("the Deep Security Manager has not answered for %s", now.Sub(w.at).Round(time.Minute))
	}
	return ""
}

func fact(name api.FactName, source, value string, known bool, at time.Time) api.Fact {
	f := api.Fact{Name: name, Source: source, Grade: api.GradeAPIConfirmed, At: at.UTC()}
	if known {
		f.Values = []string{value}
	} else {
		f.Missing = "the manager does not say"
	}
	return f
}

func missing(why string, at time.Time) []api.Fact {
	var facts []api.Fact
	for _, name := range Names() {
		facts = append(facts, api.Fact{Name: name, Source: "Deep Security Manager", Grade: api.GradeAPIConfirmed, At: at.UTC(), Missing: why})
	}
	return facts
}
