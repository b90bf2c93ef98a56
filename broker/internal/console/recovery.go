package console

import (
	"fmt"
	"net/http"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/rbac"
	"keyward/ui"
)

const recoveryPath = "/admin/recovery-key"

// recoveryKey is the account's recovery key; nil without one.
func (v *visit) recoveryKey() (*api.RecoveryKey, error) {
	k, err := v.Recovery.Key(v.ctx, v.p)
	if p, known := problem.From(err); known && p.Status == http.StatusNotFound {
		return nil, nil
	}
	return &k, err
}

func showRecovery(v *visit) error {
	key, err := v.recoveryKey()
	if err != nil {
		return err
	}
	page := ui.RecoveryPage{
		Frame: v.frame("Recovery Key", "Here you can see who opens volumes when the broker is gone, and which machines are ready for that.", crumbAdmin),
		Empty: ui.Empty{Icon: "key", Title: "No recovery key", Text: "Without one, volumes can be opened without the broker only by exported keys. Its holders make it on any machine with keyward-agent recovery-key; its public half is set here."},
	}
	write := v.may(rbac.RecoveryKeyWrite)
	set := ui.Button{Text: "Set Recovery Key", Icon: "key", URL: recoveryPath + "/set", Dialog: true, Primary: true}
	if key == nil {
		if write {
			page.Empty.Action = &set
		}
		return v.show(http.StatusOK, "recovery-key", page)
	}
	page.Key = []ui.Pair{{Label: "Key", Value: key.KeyID, Code: true}, {Label: "Opens with", Value: sharesOf(*key)}, {Label: "Holders", Value: strings.Join(key.Holders, "\n")},
		{Label: "Set", Value: v.exact(&key.CreatedAt)}, {Label: "Set by", Value: key.CreatedBy}}
	if write {
		set.Text, set.Primary = "Replace", false
		page.Buttons = []ui.Button{set, {Text: "Remove", Icon: "trash", URL: recoveryPath + "/remove", Dialog: true, Danger: true}}
	}
	machines, err := v.Recovery.Machines(v.ctx, v.p)
	if err != nil {
		return err
	}
	ready := int64(0)
	for _, m := range machines {
		if m.State == api.EnvelopeCurrent {
			ready++
		}
		page.Machines = append(page.Machines, ui.RecoveryMachineRow{Instance: v.link(rbac.RunningInstancesRead, m.InstanceName, "/instances/", m.InstanceID),
			Status: ui.EnvelopeBadge(string(m.State)), Issued: v.whenOptional(m.IssuedAt), Confirmed: v.whenOptional(m.ConfirmedAt)})
	}
	tone := ui.ToneGood
	if ready < int64(len(machines)) {
		tone = ui.ToneWarn
	}
	page.Counters = []ui.Counter{{Number: ready, Text: fmt.Sprintf("of %d %s ready", len(machines), plural(int64(len(machines)), "machine is", "machines are")), Tone: tone, Icon: "server"}}
	return v.show(http.StatusOK, "recovery-key", page)
}

func sharesOf(k api.RecoveryKey) string {
	return fmt.Sprintf("%d of %d shares", k.Threshold, len(k.Holders))
}

func askSetRecovery(v *visit) error {
	page, err := v.setRecoveryPage("", "")
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", page)
}

// setRecoveryPage sets the key at once where one person is enough, and asks for it where others have to agree.
func (v *visit) setRecoveryPage(file, reason string) (ui.FormPage, error) {
	page := ui.FormPage{
		Frame: v.frame("Set Recovery Key", "", crumbAdmin, ui.Link{Text: "Recovery Key", URL: recoveryPath}), Action: recoveryPath + "/set", Submit: "Set", Cancel: recoveryPath,
		Lead: []string{"Whoever holds enough shares of this key can read every device of the account without the broker. Machines fetch envelopes sealed to it within a quarter of an hour.",
			"Envelopes that were sealed to a former key still open with that key's shares."},
		Fields: []ui.Field{{Name: "public_key", Label: "The file recovery-key.pub", Type: "textarea", Value: file, Required: true, MaxLength: 16384, Help: "As keyward-agent recovery-key made it. It is no secret."}},
	}
	settings, err := v.Exports.Settings(v.ctx, v.p)
	if err != nil {
		return page, err
	}
	if settings.People > 1 {
		page.Lead = append(page.Lead, "Others have to agree. When enough of them have approved it, set it on its page.")
		page.Fields = append(page.Fields, ui.Field{Name: "reason", Label: "Reason", Type: "textarea", Value: reason, Required: true, MaxLength: 1024, Help: "The others decide by it. It is kept in the audit log."})
		page.Submit = "Ask"
		return page, nil
	}
	code, err := v.freshCode("Six digits of your authenticator, or a recovery code.")
	if code != nil {
		page.Fields = append(page.Fields, *code)
	}
	return page, err
}

func setRecovery(v *visit) error {
	file, reason := v.form("public_key"), v.text("reason")
	again := func(cause error) error {
		status, flash, fields, ok := refusal(cause)
		if !ok {
			return cause
		}
		page, err := v.setRecoveryPage(file, reason)
		if err != nil {
			return err
		}
		explain(flash, mark(fields, page.Fields))
		page.Flash = flash
		return v.show(status, "form", page)
	}
	settings, err := v.Exports.Settings(v.ctx, v.p)
	if err != nil {
		return err
	}
	// Browsers send lines with CR LF; the file has LF.
	text := strings.ReplaceAll(file, "\r\n", "\n")
	if settings.People > 1 {
		e, err := v.Exports.AskRecoveryKey(v.ctx, v.p, api.RecoveryKeyAsk{PublicKey: text, Reason: reason})
		if err != nil {
			return again(err)
		}
		return v.to(exportsPath+"/"+e.ID, "export-asked")
	}
	if err := v.freshen(); err != nil {
		return again(err)
	}
	if _, err := v.Recovery.SetKey(v.ctx, v.p, api.RecoveryKeyWrite{PublicKey: text}); err != nil {
		return again(err)
	}
	return v.to(recoveryPath, "saved")
}

func askRemoveRecovery(v *visit) error {
	key, err := v.recoveryKey()
	if err != nil {
		return err
	}
	page := ui.FormPage{
		Frame: v.frame("Remove Recovery Key", "", crumbAdmin, ui.Link{Text: "Recovery Key", URL: recoveryPath}), Action: recoveryPath + "/remove", Submit: "Remove", Danger: true, Cancel: recoveryPath,
		Lead: []string{"No further envelopes are made. Those that machines and people have stay good: this takes nothing back from the holders."}, Disabled: key == nil,
	}
	if key == nil {
		page.Lead, page.Refused = nil, []ui.Pair{{Label: "Recovery key", Value: "The account has none."}}
	} else {
		page.Facts = []ui.Pair{{Label: "Key", Value: key.KeyID, Code: true}, {Label: "Opens with", Value: sharesOf(*key)}}
	}
	return v.show(http.StatusOK, "form", page)
}

func removeRecovery(v *visit) error {
	err := v.Recovery.RetireKey(v.ctx, v.p)
	if p, known := problem.From(err); err != nil && !(known && p.Status == http.StatusNotFound) {
		return err
	}
	return v.to(recoveryPath, "deleted") // one that another person removed meanwhile is gone as well
}
