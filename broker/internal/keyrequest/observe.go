package keyrequest

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/attest"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
)

// Limits on evidence; generous for machines with many listening ports.
const (
	maxFacts      = 256
	maxValues     = 4096 // per fact
	maxValueBytes = 16 << 10
	maxNameBytes  = 128
	// maxSubjectBytes is the longest path that Linux takes.
	maxSubjectBytes = 4096
)

// observed are the facts that the broker itself vouches for.
func observed(inst store.Instance, address string, asked time.Time) []api.Fact {
	now := asked.UTC()
	fact := func(name api.FactName, source, value string) api.Fact {
		return api.Fact{Name: name, Values: []string{value}, Source: source, Grade: api.GradeBrokerObserved, At: now}
	}
	facts := []api.Fact{
		fact(api.FactRequestDate, "broker clock", now.Format(time.RFC3339)),
		fact(api.FactFirstSeen, "broker records", inst.FirstSeenAt.UTC().Format(time.RFC3339)),
	}
	if inst.LastSeenAt != nil {
		facts = append(facts, fact(api.FactLastSeen, "broker records", inst.LastSeenAt.UTC().Format(time.RFC3339)))
	}
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return facts
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return append(facts, fact(api.FactSourceIPv4, "connection", ip.String()))
	}
	return append(facts, fact(api.FactSourceIPv6, "connection", ip.String()))
}

// checkEvidence bounds what a machine says; what it means is the policy's business.
func checkEvidence(e api.Evidence) error {
	if len(e.Facts) > maxFacts {
		return problem.Invalid("evidence.facts", fmt.Sprintf("are more than %d", maxFacts))
	}
	for i, f := range e.Facts {
		field := fmt.Sprintf("evidence.facts[%d]", i)
		if len(f.Values) > maxValues {
			return problem.Invalid(field+".values", fmt.Sprintf("are more than %d", maxValues))
		}
		if !approval.Plain(string(f.Name), maxNameBytes) || f.Name == "" {
			return problem.Invalid(field+".name", "is not a fact's name")
		}
		if !approval.Plain(f.Subject, maxSubjectBytes) || strings.ContainsAny(f.Subject, "\r\n\t") {
			return problem.Invalid(field+".subject", "is not a fact's subject")
		}
		for _, text := range append([]string{f.Source, string(f.Grade), f.Missing}, f.Values...) {
			if !approval.Plain(text, maxValueBytes) {
				return problem.Invalid(field, fmt.Sprintf("holds text that is not plain or longer than %d bytes", maxValueBytes))
			}
		}
	}
	if e.TPM != nil && len(e.TPM.PCRs) > attest.PCRs {
		return problem.Invalid("evidence.tpm.pcrs", fmt.Sprintf("are more than %d", attest.PCRs))
	}
	return nil
}

// checkHeartbeat bounds what a machine says in a heartbeat.
func checkHeartbeat(in api.Heartbeat) error {
	if len(in.Devices) > maxHeld {
		return problem.Invalid("devices", "are more than a machine can have")
	}
	if err := checkEvidence(in.Evidence); err != nil {
		return err
	}
	for _, d := range in.Devices {
		if err := checkEvidence(api.Evidence{Facts: d.Facts}); err != nil {
			return err
		}
	}
	return nil
}
