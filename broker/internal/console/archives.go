package console

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"keyward/broker/api"
	"keyward/rbac"
	"keyward/ui"
)

var crumbArchives = []ui.Link{{Text: "Logs"}, {Text: "Archived", URL: "/logs/archived"}}

func showArchives(v *visit) error {
	list, err := v.Audit.Archives(v.ctx, v.p)
	if err != nil {
		return err
	}
	model := ui.ArchivesPage{
		Frame: v.frame("Archived Logs", "Here you can view the months that are more than a year old. They are kept for another year; then an Auditor may delete them, which stays visible.",
			crumbArchives[0]),
		Export: v.may(rbac.LogsExport), CanDelete: v.may(rbac.LogsDelete),
		Empty: ui.Empty{Icon: "list", Title: "Nothing is archived", Text: "A month is archived when it is over for twelve months. What is newer is on the Query page."},
	}
	for _, a := range list.Archives {
		row := ui.ArchiveRow{Month: a.Month, Records: a.Records, Range: recordRange(a.First, a.Last), Kept: a.DeletableFrom.UTC().Format(time.DateOnly)}
		q := url.Values{"from": {a.From.UTC().Format(localTime)}, "to": {a.To.UTC().Format(localTime)}}
		row.CSV, row.JSONL = "/logs/export.csv?"+q.Encode(), "/logs/export.jsonl?"+q.Encode()
		if a.Deletable && model.CanDelete {
			row.Delete = &ui.Button{Text: "Delete", Icon: "trash", Danger: true, Dialog: true, URL: "/logs/archived/delete?month=" + url.QueryEscape(a.Month)}
		}
		model.Rows = append(model.Rows, row)
	}
	for _, d := range list.Deleted {
		model.Deleted = append(model.Deleted, ui.DeletionRow{Range: recordRange(d.First, d.Last), Actor: d.Actor, Reason: d.Reason, Hash: hex.EncodeToString(d.Hash),
			Period: d.Since.UTC().Format(time.DateOnly) + " to " + d.Until.UTC().Format(time.DateOnly), At: v.when(d.At)})
	}
	return v.show(http.StatusOK, "archives", model)
}

func recordRange(first, last int64) string { return fmt.Sprintf("%d to %d", first, last) }

func askDeleteArchives(v *visit) error {
	return v.show(http.StatusOK, "form", v.deleteArchivesPage(v.query("month"), ""))
}

func (v *visit) deleteArchivesPage(month, reason string) ui.FormPage {
	return ui.FormPage{
		Frame: v.frame("Delete Archived Logs", "", crumbArchives...), Action: "/logs/archived/delete",
		Lead: []string{"All archives up to this month, this one included, are deleted for ever. Download them first if they may be needed.",
			"What follows still verifies: a signed tombstone stays in their place, with your name and the reason, in every later export of the log."},
		Hidden: []ui.Pair{{Label: "month", Value: month}},
		Fields: []ui.Field{
			{Name: "confirm", Label: "Type the month " + month + " to confirm", Type: "text", Required: true, MaxLength: 16, Match: month, Autocomplete: "off"},
			{Name: "reason", Label: "Reason", Type: "textarea", Required: true, MaxLength: 1024, Value: reason, Help: "Kept for ever together with your name."},
		},
		Submit: "Delete", Danger: true, Cancel: "/logs/archived",
	}
}

func deleteArchives(v *visit) error {
	in := api.AuditDelete{Month: v.text("month"), Confirm: v.text("confirm"), Reason: v.text("reason")}
	err := v.Audit.DeleteArchives(v.ctx, v.p, in)
	if err == nil {
		return v.to("/logs/archived", "archives-deleted")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	page := v.deleteArchivesPage(in.Month, in.Reason)
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}
