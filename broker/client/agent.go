// Package client calls a broker: as an agent over mutual TLS, and as a person with a session. Every call takes a
// context, repeats itself with jitter while that is safe, sends an idempotency key with everything that is not a read,
// and returns errors that carry the title, detail and hint of the broker's problem document.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"keyward/broker/api"
)

// AgentOptions says which broker an agent talks to, and as whom.
type AgentOptions struct {
	// URL is the broker's agent interface, https://HOST[:PORT].
	URL string
	// CA is the PEM bundle that enrolment returned. It must not be empty: an agent trusts its broker's CA, not the system's.
	CA []byte
	// Cert is the client certificate of enrolment with its private key; UseCertificate replaces it later.
	Cert tls.Certificate
	// Proxy chooses a proxy per request; nil takes the environment's.
	Proxy func(*http.Request) (*url.URL, error)
	// UserAgent is sent with every request; empty means "keyward-agent".
	UserAgent string
}

// Agent calls the agents' interface of one broker. It is safe for concurrent use.
type Agent struct {
	call *caller
	cert *atomic.Pointer[tls.Certificate]
	ca   []byte
	// fetches is set when the broker refuses a nonce of the very connection: it is of an older version.
	fetches atomic.Bool
}

// NewAgent prepares an agent's calls; it sends nothing.
func NewAgent(o AgentOptions) (*Agent, error) {
	if len(o.CA) == 0 {
		return nil, errors.New("agent client: no CA given; enrol first, the broker's CA comes with the certificate")
	}
	if len(o.Cert.Certificate) == 0 {
		return nil, errors.New("agent client: no client certificate given; enrol first")
	}
	roots, err := rootsOf(o.CA)
	if err != nil {
		return nil, err
	}
	if o.UserAgent == "" {
		o.UserAgent = "keyward-agent"
	}
	cert := &atomic.Pointer[tls.Certificate]{}
	cert.Store(&o.Cert)
	c, err := newCaller(o.URL, &tls.Config{
		MinVersion:           tls.VersionTLS13,
		RootCAs:              roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert.Load(), nil },
	}, o.Proxy, o.UserAgent)
	if err != nil {
		return nil, err
	}
	return &Agent{call: c, cert: cert, ca: o.CA}, nil
}

// UseCertificate makes connections from now on show another client certificate, after a renewal.
func (a *Agent) UseCertificate(cert tls.Certificate) {
	a.cert.Store(&cert)
	a.Close()
}

// EnrolInstance trades an image's certificate, which this client shows, for one of the machine's own. What comes back is
// checked as after Enrol, with the CA that came with the image's certificate in place of the pin.
func (a *Agent) EnrolInstance(ctx context.Context, in api.EnrolRequest) (out api.EnrolResponse, err error) {
	if err := a.call.do(ctx, call{method: http.MethodPost, path: api.PathEnrolInstance, in: in, out: &out}); err != nil {
		return api.EnrolResponse{}, err
	}
	ca, err := firstCertificate(string(a.ca))
	if err == nil {
		err = checkIssued(out, in, ca)
	}
	if err != nil {
		return api.EnrolResponse{}, fmt.Errorf("the broker's answer to the enrolment is refused: %w", err)
	}
	out.CA = string(a.ca)
	return out, nil
}

// RegisterTPM shows the machine's TPM and returns what it has to read.
func (a *Agent) RegisterTPM(ctx context.Context, in api.TPMRegistration) (out api.TPMChallenge, err error) {
	return out, a.call.do(ctx, call{method: http.MethodPost, path: api.PathTPM, in: in, out: &out})
}

// ActivateTPM returns what the TPM read.
func (a *Agent) ActivateTPM(ctx context.Context, in api.TPMActivation) (out api.TPMInfo, err error) {
	return out, a.call.do(ctx, call{method: http.MethodPost, path: api.PathTPMActivation, in: in, out: &out})
}

// Renew asks for another certificate for the machine's key.
func (a *Agent) Renew(ctx context.Context, in api.RenewRequest) (out api.RenewResponse, err error) {
	return out, a.call.do(ctx, call{method: http.MethodPost, path: api.PathCertificate, in: in, out: &out})
}

// Close drops idle connections.
func (a *Agent) Close() { a.call.http.CloseIdleConnections() }

// Nonce fetches a challenge for one key request or job key.
func (a *Agent) Nonce(ctx context.Context) (out api.NonceResponse, err error) {
	return out, a.call.do(ctx, call{method: http.MethodPost, path: api.PathNonce, out: &out})
}

// PublishInventory reports every device that the machine can see and returns what the broker has recorded of them.
func (a *Agent) PublishInventory(ctx context.Context, in api.InventoryReport) (out api.DeviceList, err error) {
	return out, a.call.do(ctx, call{method: http.MethodPut, path: api.PathInventory, in: in, out: &out})
}

// Devices fetches what the broker has recorded of the machine's devices.
func (a *Agent) Devices(ctx context.Context) (out api.DeviceList, err error) {
	return out, a.call.do(ctx, call{method: http.MethodGet, path: api.PathAgentDevices, out: &out})
}

// Commands waits up to wait (at most a minute) for something to do. An empty list is the usual answer.
func (a *Agent) Commands(ctx context.Context, wait time.Duration) (out api.CommandList, err error) {
	return out, a.call.do(ctx, call{method: http.MethodGet, path: api.PathCommands, query: waitQuery(wait), out: &out, wait: wait})
}

// Heartbeat reports life, evidence and held keys, and returns the renewed leases.
func (a *Agent) Heartbeat(ctx context.Context, in api.Heartbeat) (out api.HeartbeatResponse, err error) {
	return out, a.call.do(ctx, call{method: http.MethodPost, path: api.PathHeartbeat, in: in, out: &out})
}

// Request asks for the key of one device; Ask also sees to the nonce.
func (a *Agent) Request(ctx context.Context, in api.KeyRequest) (out api.KeyRequestStatus, err error) {
	return out, a.call.do(ctx, call{method: http.MethodPost, path: api.PathKeyRequests, in: in, out: &out})
}

// RequestStatus fetches a request's state. With wait it is held back until the version differs from after, at most a minute.
func (a *Agent) RequestStatus(ctx context.Context, id string, wait time.Duration, after int64) (out api.KeyRequestStatus, err error) {
	q := waitQuery(wait)
	if wait > 0 {
		q.Set("after", strconv.FormatInt(after, 10))
	}
	return out, a.call.do(ctx, call{method: http.MethodGet, path: withID(api.PathKeyRequest, id), query: q, out: &out, wait: wait})
}

// Delivery collects the sealed key of an approved request, once.
func (a *Agent) Delivery(ctx context.Context, id string, in api.DeliveryRequest) (out api.KeyDelivery, err error) {
	return out, a.call.do(ctx, call{method: http.MethodPost, path: withID(api.PathDelivery, id), in: in, out: &out})
}

// Report tells what happened to a delivered key.
func (a *Agent) Report(ctx context.Context, id string, in api.RequestEvent) error {
	return a.call.do(ctx, call{method: http.MethodPost, path: withID(api.PathRequestEvents, id), in: in})
}

// JobKey takes an encrypt job and returns the sealed key of its device.
func (a *Agent) JobKey(ctx context.Context, id string, in api.JobKeyRequest) (out api.KeyDelivery, err error) {
	return out, a.call.do(ctx, call{method: http.MethodPost, path: withID(api.PathJobKey, id), in: in, out: &out})
}

// JobProgress reports how an encrypt job goes; the last report has Done with the volume record, or Failed.
func (a *Agent) JobProgress(ctx context.Context, id string, in api.JobProgress) error {
	return a.call.do(ctx, call{method: http.MethodPost, path: withID(api.PathJobProgress, id), in: in})
}

func waitQuery(wait time.Duration) url.Values {
	q := url.Values{}
	if wait > 0 {
		q.Set("wait", strconv.Itoa(int(wait.Seconds())))
	}
	return q
}

func withID(path, id string) string { return strings.Replace(path, "{id}", url.PathEscape(id), 1) }
