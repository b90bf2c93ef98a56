// Package dsm asks a Deep Security Manager (or Workload Security) what it knows of machines, over its REST interface, version
// 1: https://<manager>:4119/api with the headers api-version and api-secret-key.
//
// Nothing here is asked while a key request is judged. A Watch keeps a recent picture of all computers of an account's
// manager, and requests are judged by that picture: a manager that is slow or away makes facts old, and then missing, but
// never makes a request wait. A machine is found in the picture by what names it for certain, or not at all.
package dsm

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// pageSize is how many computers one call asks for, mostComputers how many a manager may have in all.
	pageSize      = 500
	mostComputers = 100_000
	// mostBody bounds one answer, bytes: some 30 KiB for each computer of a page.
	mostBody = 16 << 20
	// callTime bounds one call.
	callTime = 30 * time.Second
)

// expand names the parts of a computer that are asked for; without it a manager sends all there is.
const expand = "computerStatus,antiMalware,webReputation,firewall,intrusionPrevention,integrityMonitoring,logInspection,ec2VirtualMachineSummary"

// Errors that callers tell apart.
var (
	// ErrRefused says that the manager does not accept the key.
	ErrRefused = errors.New("the manager refuses the API key; make a new one in Administration > User Management > API Keys of the manager and save it here")
	// ErrNotManager says that what answers is no Deep Security Manager.
	ErrNotManager = errors.New("what answers is not a Deep Security Manager; check server address and port")
)

// BusyError says that the manager wants fewer calls (status 429).
type BusyError struct {
	// After is how long to wait.
	After time.Duration
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("the manager limits how often it is asked; it is asked again in %s", e.After)
}

// Client asks one manager.
type Client struct {
	base      *url.URL
	secret    string
	transport *http.Transport
	http      *http.Client
}

// NewClient makes a client for the manager at server and port. secret is the API key. authorities are PEM certificates to
// trust; empty means those of this machine.
func NewClient(server string, port int, secret, authorities string) (*Client, error) {
	base, err := address(server, port)
	if err != nil {
		return nil, err
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if authorities != "" {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM([]byte(authorities)) {
			return nil, errors.New("there is no PEM certificate in what is given as the manager's authority")
		}
	}
	transport := &http.Transport{TLSClientConfig: t, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConns: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10}
	return &Client{base: base, secret: secret, transport: transport, http: &http.Client{
		Timeout: callTime,
		// The key travels in a header: it goes nowhere but to the manager itself.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     transport,
	}}, nil
}

// dial makes all connections by d. It is called before the first.
func (c *Client) dial(d *net.Dialer) { c.transport.DialContext = d.DialContext }

// address is the base of all calls. Only a host is taken: no scheme, path or user in it.
func address(server string, port int) (*url.URL, error) {
	if port < 1 || port > 65535 {
		return nil, fmt.Errorf("port %d is not between 1 and 65535", port)
	}
	host := strings.Trim(server, "[]")
	u, err := url.Parse("https://" + joinHostPort(host, port) + "/api/")
	if err != nil || host == "" || len(host) > 253 || u.Hostname() != host || strings.ContainsAny(host, "/?#@ \t\r\n") {
		return nil, fmt.Errorf("%q is not a host name or address", server)
	}
	return u, nil
}

func joinHostPort(host string, port int) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(port)
}

// Close gives connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Computers lists all computers of the manager in the order of their IDs.
func (c *Client) Computers(ctx context.Context) ([]Computer, error) {
	var all []Computer
	for last := 0; ; {
		page, err := c.page(ctx, last, pageSize)
		if err != nil {
			return nil, err
		}
		for _, computer := range page {
			if computer.ID <= last {
				return nil, fmt.Errorf("%w: it lists computer %d behind %d", ErrNotManager, computer.ID, last)
			}
			last = computer.ID
		}
		if all = append(all, page...); len(all) > mostComputers {
			return nil, fmt.Errorf("the manager has more than %d computers", mostComputers)
		}
		if len(page) < pageSize {
			return all, nil
		}
	}
}

// Test asks for one computer, which shows that address, certificate and key are right.
func (c *Client) Test(ctx context.Context) error {
	_, err := c.page(ctx, 0, 1)
	return err
}

// page lists up to n computers with IDs above last.
func (c *Client) page(ctx context.Context, last, n int) ([]Computer, error) {
	body, err := json.Marshal(search{MaxItems: n, SortByObjectID: true, Criteria: []criterion{{IDValue: last, IDTest: "greater-than"}}})
	if err != nil {
		return nil, err
	}
	u := c.base.JoinPath("computers/search")
	u.RawQuery = url.Values{"expand": {expand}, "overrides": {"false"}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("api-version", "v1")
	req.Header.Set("api-secret-key", c.secret)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the manager for its computers: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return nil, ErrRefused
	case resp.StatusCode == http.StatusTooManyRequests:
		return nil, &BusyError{After: retryAfter(resp.Header.Get("Retry-After"))}
	case resp.StatusCode >= 500:
		return nil, fmt.Errorf("the manager answers %q; see its own log", resp.Status)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: it answers %q", ErrNotManager, resp.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, mostBody+1))
	if err != nil {
		return nil, fmt.Errorf("read the manager's computers: %w", err)
	}
	if len(raw) > mostBody {
		return nil, fmt.Errorf("%w: an answer is longer than %d bytes", ErrNotManager, mostBody)
	}
	return parseComputers(raw)
}

const (
	shortestWait = 10 * time.Second
	longestWait  = 15 * time.Minute
)

// retryAfter reads the header of that name, in seconds, within reason.
func retryAfter(header string) time.Duration {
	seconds, err := strconv.Atoi(header)
	if err != nil {
		seconds = 60
	}
	return min(max(time.Duration(seconds)*time.Second, shortestWait), longestWait)
}

type search struct {
	MaxItems       int         `json:"maxItems"`
	SortByObjectID bool        `json:"sortByObjectID"`
	Criteria       []criterion `json:"searchCriteria"`
}

type criterion struct {
	IDValue int    `json:"idValue"`
	IDTest  string `json:"idTest"`
}
