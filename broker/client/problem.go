package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"sort"
	"strings"
	"time"
)

// Problem is an answer of the broker that is not a success, as its problem document (RFC 9457) said it. Type is a URI
// of docs/problems.md. Every error that a call returns for an HTTP answer wraps a *Problem.
type Problem struct {
	Status int    `json:"status"`
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	// Hint says what the reader can do next.
	Hint string `json:"hint"`
	// Fields explains single fields of the request by their JSON names.
	Fields map[string]string `json:"fields"`
	// Time is the broker's clock, present where the two clocks disagree.
	Time *time.Time `json:"time"`
	// RequestID finds the call in the broker's log.
	RequestID string `json:"request_id"`
}

// Error puts title, detail, fields and hint into one line.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Title)
	if p.Detail != "" && p.Detail != p.Title {
		b.WriteString(": ")
		b.WriteString(p.Detail)
	}
	names := make([]string, 0, len(p.Fields))
	for name := range p.Fields {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(&b, "; %s: %s", name, p.Fields[name])
	}
	if p.Time != nil {
		fmt.Fprintf(&b, "; the broker's time is %s", p.Time.UTC().Format(time.RFC3339))
	}
	if p.Hint != "" {
		b.WriteString("; ")
		b.WriteString(p.Hint)
	}
	fmt.Fprintf(&b, " (HTTP %d)", p.Status)
	return b.String()
}

// Is reports whether err is a problem of the given slug, the last part of its type URI: Is(err, "nonce-used").
func Is(err error, slug string) bool {
	var p *Problem
	if !errors.As(err, &p) {
		return false
	}
	return p.Type[strings.LastIndex(p.Type, ":")+1:] == slug
}

// StatusOf is the HTTP status of the problem that err wraps, and 0 when the broker never answered.
func StatusOf(err error) int {
	var p *Problem
	if errors.As(err, &p) {
		return p.Status
	}
	return 0
}

// readProblem turns an answer into a Problem whatever its body is: a proxy between us and the broker sends HTML.
func readProblem(res *http.Response, body []byte) *Problem {
	p := &Problem{}
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if kind != "application/problem+json" && kind != "application/json" || json.Unmarshal(body, p) != nil {
		*p = Problem{Detail: "the answer is not a problem document; something between this machine and the broker may have answered",
			Hint: "check the broker's URL and any proxy on the way"}
	}
	p.Status = res.StatusCode
	if p.Title == "" {
		p.Title = http.StatusText(res.StatusCode)
	}
	if p.RequestID == "" {
		p.RequestID = res.Header.Get("X-Request-Id")
	}
	return p
}
