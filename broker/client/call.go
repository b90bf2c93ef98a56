package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
)

const (
	// answerLimit bounds what is read of an answer; the largest list of a broker is far below it.
	answerLimit = 16 << 20
	// callTimeout bounds one attempt, beside the wait that a long poll asks for. The broker adds the same time to a
	// lease before it calls it ended (docs/agent-protocol.md), so an answer that took longer is never believed.
	callTimeout = 10 * time.Second
	// attempts bounds how often one call is tried; the pauses between them add up to about ten seconds.
	attempts  = 6
	pauseBase = 200 * time.Millisecond
	pauseMax  = 5 * time.Second
)

// caller sends requests and repeats them while that is safe. Every POST, PUT and DELETE carries an idempotency key that
// stays the same over the attempts of one call.
type caller struct {
	base    *url.URL
	http    *http.Client
	lines   *lines // the transport of http
	agent   string
	headers func(http.Header)
	// writeOnce keeps writes from being repeated where the broker may have carried them out: the agents' interface stores
	// answers by idempotency key, the people's interface does not.
	writeOnce bool
	// pause waits between attempts; tests replace it.
	pause func(ctx context.Context, d time.Duration) error
}

// call is one request.
type call struct {
	method, path string
	query        url.Values
	in, out      any
	wait         time.Duration // a long poll's, beside callTimeout
	raw          io.Writer     // receives the body instead of out
	accept       string
	line         *line // the connection that it goes out on, for as long as that is there
}

func newCaller(base string, tlsConfig *tls.Config, proxy func(*http.Request) (*url.URL, error), userAgent string) (*caller, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, errors.New("broker URL: not readable; want https://HOST[:PORT]") // it may hold a password
	}
	if u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("broker URL %q: want https://HOST[:PORT] without a user name", u.Redacted())
	}
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	u.Path = strings.TrimRight(u.Path, "/")
	transport := newLines(&http.Transport{
		TLSClientConfig:       tlsConfig,
		Proxy:                 proxy,
		DialContext:           (&net.Dialer{Timeout: callTimeout}).DialContext,
		TLSHandshakeTimeout:   callTimeout,
		MaxIdleConnsPerHost:   idleLines,
		IdleConnTimeout:       idleTime,
		ExpectContinueTimeout: time.Second,
	})
	return &caller{
		base: u,
		http: &http.Client{
			Transport: transport,
			// A redirect could carry a request, and what is sealed in it, to somewhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		lines: transport,
		agent: userAgent,
		pause: sleep,
	}, nil
}

// rootsOf reads a PEM bundle; an empty one means the system's roots.
func rootsOf(pem []byte) (*x509.CertPool, error) {
	if len(pem) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("CA bundle: no PEM certificate in it; use the broker's ca.pem")
	}
	return pool, nil
}

// do sends c, repeats it while that can help, and decodes the answer.
func (k *caller) do(ctx context.Context, c call) error {
	var body []byte
	if c.in != nil {
		var err error
		if body, err = json.Marshal(c.in); err != nil {
			return fmt.Errorf("%s %s: encode the request: %w", c.method, c.path, err)
		}
	}
	key := ""
	if c.method != http.MethodGet {
		key = uuid.NewString()
	}
	for attempt := 0; ; attempt++ {
		retry, after, err := k.once(ctx, c, body, key)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("%s %s: %w", c.method, c.path, err)
		if !retry || attempt+1 >= attempts || ctx.Err() != nil {
			return err
		}
		// Full jitter, so that a fleet that lost its broker does not come back in step.
		d := time.Duration(rand.Int64N(int64(min(pauseBase<<attempt, pauseMax)))) + after
		if k.pause(ctx, d) != nil {
			return err
		}
	}
}

// once makes one attempt. retry says whether another may succeed, after what the broker asked to wait.
func (k *caller) once(ctx context.Context, c call, body []byte, key string) (retry bool, after time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+c.wait)
	defer cancel()
	u := *k.base
	u.Path += c.path
	u.RawQuery = c.query.Encode()
	req, err := http.NewRequestWithContext(ctx, c.method, u.String(), bytes.NewReader(body))
	if err != nil {
		return false, 0, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	if c.accept != "" {
		req.Header.Set("Accept", c.accept)
	}
	req.Header.Set("User-Agent", k.agent)
	if key != "" {
		req.Header.Set(api.HeaderIdempotencyKey, key)
	}
	if k.headers != nil {
		k.headers(req.Header)
	}
	maybeDone := k.writeOnce && c.method != http.MethodGet
	res, err := k.over(c.line).Do(req)
	if err != nil {
		return retryable(err) && (!maybeDone || notSent(err)), 0, fmt.Errorf("reach the broker: %w", bare(err))
	}
	defer res.Body.Close()
	if res.StatusCode >= 200 && res.StatusCode < 300 && c.raw != nil {
		// A stream that broke half way must not be repeated into the same writer.
		if _, err := io.Copy(c.raw, res.Body); err != nil {
			return false, 0, fmt.Errorf("read the answer: %w", err)
		}
		return false, 0, nil
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, answerLimit+1))
	if err != nil {
		return !maybeDone, 0, fmt.Errorf("read the answer: %w", err)
	}
	if len(answer) > answerLimit {
		return false, 0, fmt.Errorf("the answer is larger than %d bytes", answerLimit)
	}
	if res.StatusCode < 200 || res.StatusCode >= 300 {
		retry := again(res.StatusCode) && (!maybeDone || refusedBefore(res.StatusCode))
		return retry, retryAfter(res), readProblem(res, answer)
	}
	if c.out == nil {
		return false, 0, nil
	}
	if err := json.Unmarshal(answer, c.out); err != nil {
		return false, 0, fmt.Errorf("decode the answer: %w", err)
	}
	return false, 0, nil
}

// over is what the next attempt of a call goes out over.
func (k *caller) over(l *line) *http.Client {
	if l == nil || l.left {
		return k.http
	}
	if !l.open() {
		l.left = true
		return k.http
	}
	return &http.Client{Transport: l.conn, CheckRedirect: k.http.CheckRedirect}
}

// again says which statuses pass: overload, a broker that is starting or stopping, a full disk, a proxy in between.
func again(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable,
		http.StatusGatewayTimeout, http.StatusInsufficientStorage:
		return true
	}
	return false
}

// refusedBefore says which of them mean that nothing was done.
func refusedBefore(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusInsufficientStorage
}

// notSent says that the connection was never made.
func notSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func retryAfter(res *http.Response) time.Duration {
	s, err := strconv.Atoi(res.Header.Get("Retry-After"))
	if err != nil || s < 0 {
		return 0
	}
	return min(time.Duration(s)*time.Second, 30*time.Second)
}

// retryable keeps certificate errors and refusals of our own from being tried six times: they do not pass.
func retryable(err error) bool {
	var (
		unknown *tls.CertificateVerificationError
		alert   tls.AlertError
		pin     *PinError
	)
	return !errors.As(err, &unknown) && !errors.As(err, &alert) && !errors.As(err, &pin) && !errors.Is(err, context.Canceled)
}

// bare drops the URL that net/http repeats in its errors: the path is named already.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
