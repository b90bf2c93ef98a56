package httpapi

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/internal/problem"
)

// plainOnly keeps two kinds of input that reach further than they should from every route.
// A compressed body is unpacked whole before its size is looked at, so a megabyte may become a gigabyte. Text with NUL
// bytes is a fault of the statement on one of the databases, which strangers could fill the broker's log with.
func plainOnly(app *fiber.App) {
	app.Use(func(c *fiber.Ctx) error {
		h, body := &c.Request().Header, c.Request().Body() // not c.Get and c.BodyRaw, which copy
		if e := h.Peek(fiber.HeaderContentEncoding); len(e) > 0 && !strings.EqualFold(string(e), "identity") {
			return problem.New(http.StatusUnsupportedMediaType, "content-encoding", "Compressed bodies are not accepted",
				"The request's body is encoded.", "Send the body as it is, without Content-Encoding.")
		}
		form := bytes.HasPrefix(h.ContentType(), []byte(fiber.MIMEApplicationForm)) && bytes.Contains(body, []byte("%00"))
		if form || holdsNUL(body) || bytes.Contains(c.Request().URI().RequestURI(), []byte("%00")) {
			return problem.New(http.StatusBadRequest, "bad-request", "The request is malformed", "A text in it holds a NUL byte.",
				"Send text without NUL bytes.")
		}
		return c.Next()
	})
}

// holdsNUL says that JSON holds a NUL character, as a byte or as the escape \u0000.
func holdsNUL(body []byte) bool {
	if bytes.IndexByte(body, 0) >= 0 {
		return true
	}
	for at := 0; ; at += len(`\u0000`) {
		i := bytes.Index(body[at:], []byte(`\u0000`))
		if i < 0 {
			return false
		}
		at += i
		// Behind an odd number of backslashes it is the text "\u0000" and no escape.
		before := at
		for before > 0 && body[before-1] == '\\' {
			before--
		}
		if (at-before)%2 == 0 {
			return true
		}
	}
}
