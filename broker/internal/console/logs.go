package console

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"keyward/broker/internal/audit"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
	"keyward/ui"
)

// logTypes are the types of events by which the log is queried.
var logTypes = []string{"", "All", "agent", "Agent events", "key", "Key action events", "policy", "Policy events", "user", "User events", "server", "Server events"}

// localTime is how browsers send a date and time; logs are in UTC, so the form's times are too.
const localTime = "2006-01-02T15:04"

func showLogs(v *visit) error {
	filter, query, fields, wrong := v.logFilter()
	page, size := v.page()
	filter.Page, filter.Size = page, size
	model := ui.LogsPage{
		Frame:  v.frame("Log Query", "Here you can view what happened in this account. Every record is linked to the one before, so no change to the log stays unseen. Times are in UTC.", ui.Link{Text: "Logs"}),
		Filter: fields,
		Empty:  ui.Empty{Icon: "list", Title: "No records", Text: "No record of this type was written in this time.", Action: &ui.Button{Text: "Show all", URL: "/logs"}},
	}
	if wrong != nil {
		model.Flash = &ui.Flash{Tone: ui.ToneBad, Title: "The query is not valid", Text: "Correct what is marked below."}
		return v.show(http.StatusUnprocessableEntity, "logs", model)
	}
	result, err := v.Audit.Query(v.ctx, v.p, filter)
	if err != nil {
		return err
	}
	if v.may(rbac.LogsExport) {
		model.CSV, model.JSONL = "/logs/export.csv?"+query.Encode(), "/logs/export.jsonl?"+query.Encode()
	}
	for _, r := range result.Records {
		row := ui.LogRow{Sequence: r.Sequence, Category: r.Category, Event: r.Event, Actor: r.Actor, Subject: r.Subject, Hash: hex.EncodeToString(r.Hash),
			At: ui.NewWhen(r.At, v.now, time.UTC, "2006-01-02 15:04:05")}
		for _, key := range sortedKeys(r.Detail) {
			row.Detail = append(row.Detail, ui.Pair{Label: key, Value: r.Detail[key]})
		}
		model.Rows = append(model.Rows, row)
	}
	model.Pager = ui.NewPager("/logs", query, page, size, result.Total)
	return v.show(http.StatusOK, "logs", model)
}

// logFilter reads the query form. The values it returns build links that select the same records.
func (v *visit) logFilter() (audit.Filter, url.Values, []ui.Field, error) {
	var f audit.Filter
	var wrong error
	query := url.Values{}
	f.Category = v.query("type")
	fields := []ui.Field{
		{Name: "type", Label: "Type", Type: "select", Options: options(f.Category, logTypes...)},
		{Name: "from", Label: "From (UTC)", Type: "datetime-local"},
		{Name: "to", Label: "To (UTC)", Type: "datetime-local"},
	}
	known := f.Category == ""
	for i := 2; i < len(logTypes); i += 2 {
		known = known || logTypes[i] == f.Category
	}
	if !known {
		fields[0].Error, wrong = "Choose one of the types.", problem.Invalid("type", "is not a type of event")
	}
	if f.Category != "" {
		query.Set("type", f.Category)
	}
	for i, to := range []*time.Time{&f.From, &f.To} {
		field := &fields[i+1]
		field.Value = v.query(field.Name)
		if field.Value == "" {
			continue
		}
		t, err := parseLocal(field.Value)
		if err != nil {
			field.Error, wrong = "Enter a date and time such as 2026-11-22T08:30.", problem.Invalid(field.Name, "is not a date and time")
			continue
		}
		*to = t
		query.Set(field.Name, field.Value)
	}
	if !f.From.IsZero() && !f.To.IsZero() && f.To.Before(f.From) {
		fields[2].Error, wrong = "This is before the start.", problem.Invalid("to", "is before the start")
	}
	return f, query, fields, wrong
}

func parseLocal(text string) (time.Time, error) {
	for _, layout := range []string{localTime, "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.UTC); err == nil {
			return t, nil
		}
	}
	return time.Time{}, problem.Invalid("time", "is not a date and time")
}

func exportCSV(v *visit) error {
	return v.exportLog("csv", "text/csv; charset=utf-8", v.Audit.ExportCSV)
}

func exportJSONL(v *visit) error {
	return v.exportLog("jsonl", "application/jsonl", v.Audit.ExportJSONL)
}

type logExport func(context.Context, tenant.Principal, audit.Filter, io.Writer) error

// exportLife is how long an export may take: logs grow for years.
const exportLife = 10 * time.Minute

// exportLog answers with a file. It is written to a file without a name first, so that a failure never looks like a short
// log and a long log takes no memory.
func (v *visit) exportLog(ext, mediaType string, write logExport) error {
	filter, _, _, err := v.logFilter()
	if err != nil {
		return err
	}
	out, err := os.CreateTemp("", "keyward-log-")
	if err != nil {
		return fmt.Errorf("making a file for the export of the log: %w", err)
	}
	if err := os.Remove(out.Name()); err != nil {
		return errors.Join(fmt.Errorf("hiding the file for the export of the log: %w", err), out.Close())
	}
	size, err := v.spool(filter, out, write)
	if err != nil {
		return errors.Join(err, out.Close())
	}
	v.http.Set("Content-Type", mediaType)
	v.http.Set("Content-Disposition", `attachment; filename="keyward-log-`+v.now.UTC().Format("20060102T150405Z")+`.`+ext+`"`)
	return v.http.SendStream(out, size) // closes it
}

// spool writes the export and goes back to its beginning.
func (v *visit) spool(filter audit.Filter, out *os.File, write logExport) (int, error) {
	ctx, cancel := context.WithTimeout(v.http.UserContext(), exportLife)
	defer cancel()
	w := bufio.NewWriterSize(out, 64<<10)
	if err := write(ctx, v.p, filter, w); err != nil {
		return 0, err
	}
	if err := w.Flush(); err != nil {
		return 0, fmt.Errorf("writing the export of the log: %w", err)
	}
	size, err := out.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = out.Seek(0, io.SeekStart)
	}
	return int(size), err
}
