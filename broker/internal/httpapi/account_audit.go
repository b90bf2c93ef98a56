package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

type auditInput struct {
	api.Page
	Category string    `query:"category" enum:"agent,key,policy,user,server" doc:"only this category"`
	From     time.Time `query:"from" doc:"only records of this time or later"`
	To       time.Time `query:"to" doc:"only records before this time"`
	Order    string    `query:"order" enum:"newest,oldest" default:"newest"`
}

// auditKey is what verifies an exported log.
type auditKey struct {
	// PEM is the Ed25519 public key; give it to "keyward-broker audit verify --key".
	PEM string `json:"pem"`
}

func registerAudit(r *Router, log *audit.Service) {
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/audit", Operation: rbac.LogsRead, Summary: "Query the audit log"},
		func(ctx context.Context, p tenant.Principal, in *auditInput) (*answer[api.AuditPage], error) {
			return answerOf(log.Query(ctx, p, audit.Filter{Category: in.Category, From: in.From, To: in.To, Page: in.Page.Page, Size: in.Size, OldestFirst: in.Order == "oldest"}))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/audit/key", Operation: rbac.LogsRead, Summary: "The public key that signs exports of the audit log"},
		func(context.Context, tenant.Principal, *None) (*answer[auditKey], error) {
			key, err := audit.PEM(log.PublicKey())
			return answerOf(auditKey{PEM: string(key)}, err)
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/audit/checkpoint", Operation: rbac.LogsRead,
		Summary: "The signed head of the audit log: keep it, to have it proved later that the log was not rewritten"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[chain.Checkpoint], error) {
			return answerOf(log.SignedHead(ctx, p))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/audit/checkpoints", Operation: rbac.LogsRead, Summary: "List the signatures over the audit log, newest first"},
		func(ctx context.Context, p tenant.Principal, in *api.Page) (*answer[api.AuditCheckpoints], error) {
			return answerOf(log.Checkpoints(ctx, p, in.Page, in.Size))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/audit/archives", Operation: rbac.LogsRead, Summary: "List the archived months of the audit log, and what was deleted of it"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[api.AuditArchives], error) {
			return answerOf(log.Archives(ctx, p))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/audit/archives/delete", Operation: rbac.LogsDelete,
		Summary: "Delete archives whose time is over, up to a month; signed tombstones stay"},
		func(ctx context.Context, p tenant.Principal, in *body[api.AuditDelete]) (*answer[api.AuditArchives], error) {
			if err := log.DeleteArchives(ctx, p, in.Body); err != nil {
				return nil, err
			}
			return answerOf(log.Archives(ctx, p))
		})
	raw(r, Route{Method: http.MethodGet, Path: "/api/v1/audit/proof", Operation: rbac.LogsRead,
		Summary: "Prove that a record is in the log (?record=N), or that an earlier log is its beginning (?from=N, perhaps &to=N)"},
		func(c *fiber.Ctx, p tenant.Principal) error { return proveAudit(c, p, log) })
	raw(r, Route{Method: http.MethodGet, Path: "/api/v1/audit/export", Operation: rbac.LogsExport,
		Summary: "Export the audit log: ?format=jsonl (verifiable) or csv, from, to, and for csv category"},
		func(c *fiber.Ctx, p tenant.Principal) error { return exportAudit(c, p, log) })
}

// proveAudit answers with the bytes that audit verify takes.
func proveAudit(c *fiber.Ctx, p tenant.Principal, log *audit.Service) error {
	numbers, fields := map[string]int64{}, map[string]string{}
	for _, name := range []string{"record", "from", "to"} {
		v := c.Query(name)
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 1 {
			fields[name] = "the number of a record"
		}
		numbers[name] = n
	}
	if len(fields) > 0 {
		return problem.InvalidFields(fields)
	}
	raw, err := log.Prove(c.UserContext(), p, audit.Question{Record: numbers["record"], From: numbers["from"], To: numbers["to"]})
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	return c.Send(raw)
}

func exportAudit(c *fiber.Ctx, p tenant.Principal, log *audit.Service) error {
	f := audit.Filter{Category: c.Query("category")}
	fields := map[string]string{}
	for name, to := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		if v := c.Query(name); v != "" {
			t, err := time.Parse(time.RFC3339, v)
			if err != nil {
				fields[name] = "a time such as 2026-11-22T00:00:00Z"
			}
			*to = t
		}
	}
	export, kind := log.ExportJSONL, "application/jsonl"
	format := c.Query("format", "jsonl")
	switch format {
	case "jsonl":
		if f.Category != "" {
			fields["category"] = "a verifiable export has all categories; use format=csv for one"
		}
	case "csv":
		export, kind = log.ExportCSV, "text/csv; charset=utf-8"
	default:
		fields["format"] = "jsonl or csv"
	}
	if len(fields) > 0 {
		return problem.InvalidFields(fields)
	}
	c.Set(fiber.HeaderContentType, kind)
	c.Set(fiber.HeaderContentDisposition, fmt.Sprintf(`attachment; filename="keyward-audit-%s.%s"`, time.Now().UTC().Format("20060102T150405Z"), format))
	ctx := c.UserContext()
	return stream(c, func(w io.Writer) error { return export(ctx, p, f, w) })
}

// stream sends what f writes while it writes it. An error before the first byte becomes a problem document; one after it
// cuts the connection, so that the receiver cannot take a part for the whole.
func stream(c *fiber.Ctx, f func(io.Writer) error) error {
	pr, pw := io.Pipe()
	go func() {
		err := errors.New("the writer of a stream panicked")
		defer func() {
			recover() // outside the request's own net: the connection is cut instead of the broker
			pw.CloseWithError(err)
		}()
		err = f(pw)
	}()
	first := make([]byte, 1)
	if _, err := io.ReadFull(pr, first); err != nil {
		pr.CloseWithError(err)
		if err == io.EOF { // nothing to send
			return c.Send(nil)
		}
		c.Response().Header.Del(fiber.HeaderContentDisposition)
		return err
	}
	c.Context().SetBodyStream(&streamed{first: first, PipeReader: pr}, -1)
	return nil
}

// streamed is the rest of a stream behind its first byte; closing it ends the writer.
type streamed struct {
	first []byte
	*io.PipeReader
}

func (s *streamed) Read(p []byte) (int, error) {
	if len(s.first) > 0 && len(p) > 0 {
		n := copy(p, s.first)
		s.first = s.first[n:]
		return n, nil
	}
	return s.PipeReader.Read(p)
}
