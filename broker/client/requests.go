package client

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"keyward/broker/api"
)

// RunningInstances lists key requests. query takes status (repeated), page and size.
func (p *People) RunningInstances(ctx context.Context, query url.Values) (out api.RunningInstances, err error) {
	return out, p.Do(ctx, http.MethodGet, "/api/v1/running-instances?"+query.Encode(), nil, &out)
}

// KeyRequest fetches a request with its findings and history.
func (p *People) KeyRequest(ctx context.Context, id string) (out api.KeyRequestDetail, err error) {
	return out, p.Do(ctx, http.MethodGet, requestPath(id, ""), nil, &out)
}

// Approve approves a pending request.
func (p *People) Approve(ctx context.Context, id string, in api.Decision) (out api.KeyRequestDetail, err error) {
	return out, p.Do(ctx, http.MethodPost, requestPath(id, "/approve"), in, &out)
}

// Deny refuses a pending request.
func (p *People) Deny(ctx context.Context, id string, in api.Decision) (out api.KeyRequestDetail, err error) {
	return out, p.Do(ctx, http.MethodPost, requestPath(id, "/deny"), in, &out)
}

// Revoke takes a delivered key back.
func (p *People) Revoke(ctx context.Context, id string, in api.Decision) (out api.KeyRequestDetail, err error) {
	return out, p.Do(ctx, http.MethodPost, requestPath(id, "/revoke"), in, &out)
}

// Ignore keeps a key that a failed check would have revoked.
func (p *People) Ignore(ctx context.Context, id string, in api.Decision) (out api.KeyRequestDetail, err error) {
	return out, p.Do(ctx, http.MethodPost, requestPath(id, "/ignore"), in, &out)
}

// AssignPolicy moves the device of an Unknown request into a policy and has the request judged by it.
func (p *People) AssignPolicy(ctx context.Context, id string, in api.PolicyAssignment) (out api.KeyRequestDetail, err error) {
	return out, p.Do(ctx, http.MethodPost, requestPath(id, "/assign-policy"), in, &out)
}

// Policies lists all policies.
func (p *People) Policies(ctx context.Context) ([]api.Policy, error) {
	var out struct {
		Policies []api.Policy `json:"policies"`
	}
	err := p.Do(ctx, http.MethodGet, "/api/v1/policies", nil, &out)
	return out.Policies, err
}

// Policy fetches one policy.
func (p *People) Policy(ctx context.Context, id string) (out api.Policy, err error) {
	return out, p.Do(ctx, http.MethodGet, policyPath(id), nil, &out)
}

// CreatePolicy makes a policy.
func (p *People) CreatePolicy(ctx context.Context, in api.Policy) (out api.Policy, err error) {
	return out, p.Do(ctx, http.MethodPost, "/api/v1/policies", in, &out)
}

// UpdatePolicy saves a policy; in.Version is the version that was read.
func (p *People) UpdatePolicy(ctx context.Context, in api.Policy) (out api.Policy, err error) {
	return out, p.Do(ctx, http.MethodPut, policyPath(in.ID), in, &out)
}

// PreviewPolicy says what a policy would do with today's machines if it were saved.
func (p *People) PreviewPolicy(ctx context.Context, in api.Policy) (out api.PolicyPreview, err error) {
	return out, p.Do(ctx, http.MethodPost, "/api/v1/policies/preview", in, &out)
}

// ReplayPolicy says what a policy would have done with the requests of the last days, 1 to 30.
func (p *People) ReplayPolicy(ctx context.Context, in api.Policy, days int) (out api.PolicyReplay, err error) {
	return out, p.Do(ctx, http.MethodPost, "/api/v1/policies/replay?days="+strconv.Itoa(days), in, &out)
}

// DeletePolicy removes a policy that holds no devices.
func (p *People) DeletePolicy(ctx context.Context, id string) error {
	return p.Do(ctx, http.MethodDelete, policyPath(id), nil, nil)
}

// Events calls f with the topic of every change until ctx ends, the stream breaks, or f fails. The first topic is
// "connected": what is read after it misses nothing.
func (p *People) Events(ctx context.Context, f func(topic string) error) error {
	u := *p.call.base
	u.Path += "/api/v1/events"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	p.call.headers(req.Header)
	res, err := p.call.http.Do(req)
	if err != nil {
		return fmt.Errorf("GET /api/v1/events: reach the broker: %w", bare(err))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
		return fmt.Errorf("GET /api/v1/events: %w", readProblem(res, body))
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		topic, ok := strings.CutPrefix(lines.Text(), "event: ")
		if !ok {
			continue
		}
		if err := f(topic); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("GET /api/v1/events: %w", cmp.Or(lines.Err(), errStreamEnded))
}

func requestPath(id, action string) string {
	return "/api/v1/key-requests/" + url.PathEscape(id) + action
}

func policyPath(id string) string { return "/api/v1/policies/" + url.PathEscape(id) }

var errStreamEnded = errors.New("the stream of events ended; read again and reconnect")
