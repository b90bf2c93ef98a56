package console

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/problem"
	"keyward/ui"
)

const logStamp = "2006-01-02 15:04:05"

func showProofs(v *visit) error {
	page, size := v.page()
	model := ui.ProofsPage{
		Frame: v.frame("Proofs", "Here you can prove that a record is in the log, and that nobody rewrote what was signed before. A proof is a small file that is checked without this broker.",
			ui.Link{Text: "Logs"}),
		Record: []ui.Field{{Name: "record", Label: "Record number", Type: "number", Min: "1", Required: true, Value: v.query("record"),
			Help: "The number in the first column of the Query page."}},
		Consistency: []ui.Field{
			{Name: "from", Label: "Signed earlier, up to record", Type: "number", Min: "1", Required: true, Value: v.query("from"), Help: "One of the signatures below, or one that you kept."},
			{Name: "to", Label: "Signed later, up to record", Type: "number", Min: "1", Value: v.query("to"), Help: "Empty for the log as it is now."},
		},
		Head: "/logs/proofs/checkpoint.json", Key: "/logs/proofs/audit.pem",
		Empty: ui.Empty{Icon: "lock", Title: "No signature yet", Text: "The log is signed every hour, after many records, and when a proof is asked for."},
	}
	status := http.StatusOK
	question, asked, err := v.question()
	if err == nil && asked {
		model.Proof, err = v.proof(question)
	}
	if err != nil {
		var flash *ui.Flash
		var fields map[string]string
		var ok bool
		if status, flash, fields, ok = unproved(err); !ok {
			return err
		}
		explain(flash, mark(fields, model.Record, model.Consistency))
		model.Flash = flash
	}
	list, err := v.Audit.Checkpoints(v.ctx, v.p, page, size)
	if err != nil {
		return err
	}
	for _, c := range list.Checkpoints {
		row := ui.CheckpointRow{Sequence: c.Sequence, At: ui.NewWhen(c.At, v.now, time.UTC, logStamp), Root: hex.EncodeToString(c.Root), KeyID: c.KeyID}
		if len(c.Root) > 0 {
			row.Prove = fmt.Sprint("/logs/proofs?from=", c.Sequence)
		}
		model.Checkpoints = append(model.Checkpoints, row)
	}
	model.Pager = ui.NewPager("/logs/proofs", url.Values{}, page, size, list.Total)
	return v.show(status, "proofs", model)
}

// unproved is refusal, and takes a record that does not exist for a mistake in the form.
func unproved(err error) (int, *ui.Flash, map[string]string, bool) {
	if p, found := problem.From(err); found && p.Status == http.StatusNotFound {
		return p.Status, &ui.Flash{Tone: ui.ToneBad, Title: p.Title, Text: "The log has no such record, or no signature over it.",
			Hint: "Look at the numbers on the Query page and in the list below; records that were deleted cannot be proved."}, nil, true
	}
	return refusal(err)
}

// question reads what is to be proved; asked says whether anything is.
func (v *visit) question() (q audit.Question, asked bool, err error) {
	wrong := map[string]string{}
	for name, to := range map[string]*int64{"record": &q.Record, "from": &q.From, "to": &q.To} {
		text := v.query(name)
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 1 {
			wrong[name] = "enter the number of a record"
		}
		*to, asked = n, true
	}
	if len(wrong) > 0 {
		return q, asked, problem.InvalidFields(wrong)
	}
	return q, asked, nil
}

// proof makes a proof and checks it as its reader will.
func (v *visit) proof(q audit.Question) (*ui.ProofView, error) {
	raw, err := v.Audit.Prove(v.ctx, v.p, q)
	if err != nil {
		return nil, err
	}
	r, err := chain.VerifyProof(raw, chain.Options{TrustedKey: v.Audit.PublicKey()})
	if err != nil {
		return nil, fmt.Errorf("the proof that was made does not hold: %w; verify an export of the log", err)
	}
	query, name := url.Values{}, proofName(q)
	for key, n := range map[string]int64{"record": q.Record, "from": q.From, "to": q.To} {
		if n > 0 {
			query.Set(key, fmt.Sprint(n))
		}
	}
	out := &ui.ProofView{Download: "/logs/proofs/proof.json?" + query.Encode(), Command: "keyward-broker audit verify " + name + " --key audit.pem"}
	if r.Record != nil {
		out.Title = fmt.Sprintf("Record %d is in the log", r.Record.Sequence)
		out.Facts = []ui.Pair{{Label: "Event", Value: r.Record.Event}, {Label: "Time (UTC)", Value: r.Record.At.UTC().Format(logStamp)}, {Label: "Actor", Value: r.Record.Actor},
			{Label: "Hash", Value: hex.EncodeToString(r.Record.Hash), Code: true}}
	} else {
		out.Title = fmt.Sprintf("The log of record %d is the beginning of that of record %d", r.From, r.To)
	}
	out.Facts = append(out.Facts, ui.Pair{Label: "Signed up to record", Value: fmt.Sprint(r.To)}, ui.Pair{Label: "Root of the tree", Value: hex.EncodeToString(r.Root), Code: true},
		ui.Pair{Label: "Key", Value: r.KeyID, Code: true})
	return out, nil
}

func proofName(q audit.Question) string {
	if q.Record > 0 {
		return fmt.Sprintf("keyward-record-%d.json", q.Record)
	}
	return fmt.Sprintf("keyward-log-%d.json", q.From)
}

func downloadProof(v *visit) error {
	q, _, err := v.question()
	if err != nil {
		return err
	}
	raw, err := v.Audit.Prove(v.ctx, v.p, q)
	if err != nil {
		return err
	}
	return v.file(proofName(q), "application/json", raw)
}

func downloadCheckpoint(v *visit) error {
	head, err := v.Audit.SignedHead(v.ctx, v.p)
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return err
	}
	return v.file(fmt.Sprintf("keyward-signature-%d.json", head.Sequence), "application/json", append(raw, '\n'))
}

func downloadAuditKey(v *visit) error {
	raw, err := audit.PEM(v.Audit.PublicKey())
	if err != nil {
		return err
	}
	return v.file("audit.pem", "application/x-pem-file", raw)
}

// file answers with a small file.
func (v *visit) file(name, mediaType string, data []byte) error {
	v.http.Set("Content-Type", mediaType)
	v.http.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	return v.http.Send(data)
}
