// Package problem holds the refusals that callers of the broker see (RFC 9457). A service returns a *Problem where the
// caller can do something about it; every other error is the broker's own fault and is shown without its text.
package problem

import (
	"errors"
	"fmt"
	"net/http"
	"sort"
	"strings"
	"time"

	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
)

// TypePrefix starts the type URI of every problem; the slug follows. docs/problems.md lists the slugs.
const TypePrefix = "urn:keyward:problem:"

// Problem is one refusal. Detail says what failed, Hint what the reader can do next; neither holds a secret.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"`
	// Fields explains single fields by their JSON names.
	Fields map[string]string `json:"fields,omitempty"`
	// Time is the broker's clock, where two clocks disagree.
	Time *time.Time `json:"time,omitempty"`
	// RetryAfter goes into the Retry-After header, in whole seconds.
	RetryAfter time.Duration `json:"-"`
	// RequestID finds the call in the broker's log; the transport fills it in.
	RequestID string `json:"request_id,omitempty"`
}

// Error is one line for logs and command lines.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Title)
	if p.Detail != "" {
		b.WriteString(": " + p.Detail)
	}
	names := make([]string, 0, len(p.Fields))
	for n := range p.Fields {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		b.WriteString("; " + n + ": " + p.Fields[n])
	}
	if p.Hint != "" {
		b.WriteString(" " + p.Hint)
	}
	return b.String()
}

// Slug is the last part of the type URI.
func (p *Problem) Slug() string { return strings.TrimPrefix(p.Type, TypePrefix) }

// New makes a problem. Detail and hint are whole sentences.
func New(status int, slug, title, detail, hint string) *Problem {
	return &Problem{Type: TypePrefix + slug, Title: title, Status: status, Detail: detail, Hint: hint}
}

// NotFound says that the caller's account has no such thing; thing is a noun such as "device".
func NotFound(thing string) *Problem {
	return New(http.StatusNotFound, "not-found", "Not found", "There is no such "+thing+" in this account.",
		"List what there is and use an ID from that list.")
}

// Stale says that somebody else changed the thing since the caller read it.
func Stale(thing string) *Problem {
	return New(http.StatusConflict, "stale", "Changed by someone else", "The "+thing+" was changed since it was read.",
		"Read it again and repeat the change on the new version.")
}

// Conflict says that the state of things does not allow what was asked.
func Conflict(detail, hint string) *Problem {
	return New(http.StatusConflict, "conflict", "Not possible in this state", detail, hint)
}

// Invalid refuses one field.
func Invalid(field, reason string) *Problem { return InvalidFields(map[string]string{field: reason}) }

// InvalidFields refuses fields, by their JSON names, each with a reason.
func InvalidFields(fields map[string]string) *Problem {
	p := New(http.StatusUnprocessableEntity, "invalid", "The request is not valid", "", "Correct the named fields.")
	p.Fields = fields
	return p
}

// Unauthenticated asks for a log-on.
func Unauthenticated() *Problem {
	return New(http.StatusUnauthorized, "unauthenticated", "Not logged on", "The call carries no valid session.",
		"Log on and send the session's token.")
}

// Forbidden says that the caller's role may not do this; operation is the one that the matrix refused.
func Forbidden(operation string) *Problem {
	return New(http.StatusForbidden, "forbidden", "Not permitted", fmt.Sprintf("Your role may not perform %q.", operation),
		"Ask an Account Administrator, who can see the roles under Administration > User Management.")
}

// TooLarge refuses a body.
func TooLarge(limit int64) *Problem {
	return New(http.StatusRequestEntityTooLarge, "too-large", "The request is too large",
		fmt.Sprintf("A request body may have %d bytes.", limit), "Send less at a time.")
}

// TooMany slows a caller down.
func TooMany(after time.Duration) *Problem {
	p := New(http.StatusTooManyRequests, "too-many-requests", "Too many requests", "This address or machine sent too many requests.",
		"Wait and try again.")
	p.RetryAfter = after
	return p
}

// ClockSkew says that the two clocks differ by more than the five minutes that the broker accepts.
func ClockSkew(now time.Time) *Problem {
	p := New(http.StatusUnprocessableEntity, "clock-skew", "The clocks differ",
		fmt.Sprintf("The machine's clock and the broker's differ by more than five minutes; the broker's time is %s.", now.UTC().Format(time.RFC3339)),
		"Set the machine's clock, for example with an NTP client, and try again.")
	t := now.UTC()
	p.Time = &t
	return p
}

// Unavailable says that the broker cannot answer now and that trying again helps.
func Unavailable(detail string) *Problem {
	p := New(http.StatusServiceUnavailable, "unavailable", "Not available at the moment", detail, "Try again in a few seconds.")
	p.RetryAfter = 2 * time.Second
	return p
}

// Internal is what callers see of an error that is not theirs. The error itself goes to the log only.
func Internal() *Problem {
	return New(http.StatusInternalServerError, "internal", "The broker failed", "The call was not carried out.",
		"Try again; if it happens again, give the request ID to the broker's operator.")
}

// From finds the problem in any error of a service. The second result is false for the broker's own faults, which belong
// into the log.
func From(err error) (*Problem, bool) {
	var p *Problem
	switch {
	case errors.As(err, &p):
		return p, true
	case errors.Is(err, store.ErrFull):
		return New(http.StatusInsufficientStorage, "storage-full", "The broker's storage is full", "Nothing was changed.",
			"Free space on the disk of the broker's database and try again."), false
	case errors.Is(err, keystore.ErrUnreachable):
		p := New(http.StatusServiceUnavailable, "root-key-unreachable", "The broker cannot reach its root key",
			"The key that protects this account's keys is kept elsewhere and does not answer. Nothing was changed.",
			"Try again; the broker's operator finds the reason in its log and at /readyz.")
		p.RetryAfter = 10 * time.Second
		return p, false
	case errors.Is(err, store.ErrBusy):
		return Unavailable("Too many changes happened at the same time."), true
	case errors.Is(err, store.ErrNotFound):
		return NotFound("object"), true
	case errors.Is(err, store.ErrStale):
		return Stale("object"), true
	case errors.Is(err, store.ErrInvalid):
		return New(http.StatusUnprocessableEntity, "invalid", "The request is not valid", "A text holds NUL bytes or is not UTF-8.",
			"Send text as UTF-8 without NUL bytes."), true
	}
	return Internal(), false
}
