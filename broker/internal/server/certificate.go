package server

import (
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	"keyward/broker/internal/pki"
)

// certificates prepares TLS of both listeners. People's browsers may speak TLS 1.2; machines speak 1.3, and show a client
// certificate in every call but enrolment, which the routes check.
func (b *Broker) certificates() error {
	own := &issued{ca: b.identity.CA, hosts: b.config.hosts(), clock: b.config.Clock}
	if _, err := own.get(nil); err != nil {
		return err
	}
	b.peopleTLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: own.get}
	if b.config.PeopleCert != "" {
		pair, err := tls.LoadX509KeyPair(b.config.PeopleCert, b.config.PeopleKey)
		if err != nil {
			return fmt.Errorf("reading the certificate for people: %w; name PEM files that belong together", err)
		}
		b.peopleTLS.GetCertificate, b.peopleTLS.Certificates = nil, []tls.Certificate{pair}
	}
	b.agentsTLS = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: own.get,
		ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: b.identity.CA.Pool(), Time: b.config.Clock}
	return nil
}

// PeopleTLS is the TLS configuration of the people's listener.
func (b *Broker) PeopleTLS() *tls.Config { return b.peopleTLS.Clone() }

// AgentTLS is the TLS configuration of the agents' listener.
func (b *Broker) AgentTLS() *tls.Config { return b.agentsTLS.Clone() }

// issued is a server certificate of the broker's own CA, made anew before it ends: a broker may run for years.
type issued struct {
	ca    *pki.CA
	hosts []string
	clock func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	renewAt time.Time
}

func (i *issued) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.clock()
	if i.current != nil && now.Before(i.renewAt) {
		return i.current, nil
	}
	chain, key, err := i.ca.IssueServer(i.hosts)
	if err != nil {
		return nil, err
	}
	i.current, i.renewAt = &tls.Certificate{Certificate: chain, PrivateKey: key}, now.Add(pki.ServerLife/2)
	return i.current, nil
}
