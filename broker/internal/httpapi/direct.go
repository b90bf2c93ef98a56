package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

// direct is handle for a machine's call that thousands make at once. A call as agents make it is read in one pass
// (onePass) and answered without huma; any other, and every one whose body is not read so, goes on to huma, which judges
// it as it judges those of all other routes. A call that is read here makes no use of the context's values.
func direct[B, O any](r *Router, rt Route, call Call[AgentCall[B], answer[O]]) {
	read := onePass[B]()
	r.app.Add(rt.Method, pattern(rt.Path), func(c *fiber.Ctx) error {
		if !usual(c) {
			return c.Next()
		}
		p, err := r.enter(c, rt)
		if err != nil {
			return err
		}
		raw := c.Request().Body() // no copy: it lives as long as the call
		body, ok := read(raw)
		if !ok {
			c.Locals(entered{}, p)
			return c.Next()
		}
		in := &AgentCall[B]{Key: c.Get(api.HeaderIdempotencyKey), RawBody: raw, Body: body}
		out, err := call(c.UserContext(), p, in)
		if err != nil {
			return err
		}
		c.Response().Header.SetContentType(fiber.MIMEApplicationJSON)
		if in.answer != nil {
			return c.Send(in.answer)
		}
		return sendJSON(c, out.Body)
	})
	handle(r, rt, call)
}

// entered is where a call that was let in is kept on its way from direct to huma.
type entered struct{}

// enter lets a call in: who makes it, and not too often.
func (r *Router) enter(c *fiber.Ctx, rt Route) (tenant.Principal, error) {
	p, err := r.gate.Admit(c, rt)
	if err != nil || r.machines == nil || p.Instance == "" {
		return p, err
	}
	if wait, ok := r.machines.allow(p.Instance); !ok {
		return p, problem.TooMany(wait)
	}
	return p, nil
}

// usual says that a call is JSON without anything that changes how it is to be read or answered.
func usual(c *fiber.Ctx) bool {
	h := &c.Request().Header
	if n := len(c.Request().Body()); n == 0 || n >= BodyLimit || len(c.Request().URI().QueryString()) > 0 || len(h.Peek(fiber.HeaderContentEncoding)) > 0 {
		return false
	}
	if kind := string(h.ContentType()); kind != "" && kind != fiber.MIMEApplicationJSON {
		return false
	}
	accept := string(h.Peek(fiber.HeaderAccept))
	return accept == "" || accept == "*/*" || strings.HasPrefix(accept, fiber.MIMEApplicationJSON) && !strings.Contains(accept, ";")
}

var encodings = sync.Pool{New: func() any { return &bytes.Buffer{} }}

// sendJSON writes an answer as huma does.
func sendJSON(c *fiber.Ctx, body any) error {
	b := encodings.Get().(*bytes.Buffer)
	b.Reset()
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return err
	}
	c.Status(http.StatusOK).Response().SetBody(b.Bytes())
	if b.Cap() <= 64<<10 {
		encodings.Put(b)
	}
	return nil
}
