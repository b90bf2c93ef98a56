package consoletest

import "keyward/broker/api"

// Taint replaces everything that people or machines can name by a text, so that a test can look for pages that do not
// escape it. IDs and statuses stay.
func (b *Broker) Taint(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.account.Name, b.account.ServiceURL = text, text
	for i := range b.users {
		u := &b.users[i]
		u.DisplayName, u.Email = text, text
		if i > 4 {
			u.Name = text
		}
	}
	for token, s := range b.sessions {
		s.UserAgent, s.Address = text, text
		b.sessions[token] = s
	}
	for i := range b.tokens {
		b.tokens[i].Description, b.tokens[i].CreatedBy = text, text
	}
	for i := range b.images {
		m := &b.images[i]
		m.Name, m.Identity, m.Provider, m.Description = text, text, text, text
	}
	for i := range b.machines {
		m := &b.machines[i]
		m.HostName, m.Identity, m.Location, m.Provider, m.ImageName, m.AgentVersion, m.SourceIP = text, text, text, text, text, text, text
		if m.CloudIdentity != "" {
			m.CloudIdentity = text
		}
		if m.TPM != nil {
			m.TPM = &api.TPMInfo{EndorsementSHA256: text, Maker: text, HoldsKey: true}
		}
		if m.KeyConflict != nil {
			m.KeyConflict = &api.KeyConflict{KeySHA256: text, HostName: text, Address: text, At: m.KeyConflict.At}
		}
	}
	for i := range b.devices {
		d := &b.devices[i]
		d.Name, d.Identity, d.Description, d.Information, d.Contents, d.StatusDetail = text, text, text, text, text, text
		if d.Rotation != nil {
			d.Rotation = &api.KeyRotation{Status: "queued", AskedBy: text, Reason: text, Waits: text, AskedAt: d.Rotation.AskedAt}
		}
		d.MountPoint, d.PolicyName, d.InstanceName, d.Provider = text, text, text, text
	}
	for i := range b.policies {
		p := &b.policies[i]
		p.Name, p.Description = text, text
		for j := range p.Rules {
			for k := range p.Rules[j].Conditions {
				p.Rules[j].Conditions[k].Value = text
			}
		}
	}
	for i := range b.requests {
		r := &b.requests[i]
		r.DeviceName, r.ImageName, r.InstanceName, r.PolicyName, r.Provider, r.Reason, r.DecidedBy = text, text, text, text, text, text, text
		r.Device.Name, r.Device.Description, r.Device.MountPoint, r.Device.Identity = text, text, text, text
		findings := append(r.Verdict.Findings[:0:0], r.Verdict.Findings...)
		for j := range findings {
			f := &findings[j]
			f.Actual, f.Condition, f.Source, f.Title = text, text, text, text
		}
		r.Verdict.Findings, r.Verdict.Reason = findings, text
		for j := range r.History {
			r.History[j].Reason, r.History[j].Actor = text, text
		}
	}
	b.recovery = &api.RecoveryKey{KeyID: text, Threshold: 2, Holders: []string{text, text, text}, CreatedBy: text}
	for i := range b.exports {
		e := &b.exports[i]
		e.AskedBy, e.Reason, e.EndedBy, e.EndReason = text, text, text, text
		for j := range e.Devices {
			e.Devices[j].Name = text
		}
		for j := range e.Approvals {
			e.Approvals[j].User, e.Approvals[j].Reason = text, text
		}
		if e.RecoveryKey != nil {
			e.RecoveryKey = &api.RecoveryKey{KeyID: text, Threshold: 2, Holders: []string{text, text, text}}
		}
	}
	b.deletedFor = text
	for i := range b.records {
		r := &b.records[i]
		r.Event, r.Actor, r.Subject, r.Detail = text, text, text, map[string]string{text: text}
	}
}
