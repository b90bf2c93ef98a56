package httpapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
)

func csrOf(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func pair(t *testing.T, certificate string, key any) tls.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(certificate))
	if block == nil {
		t.Fatalf("no certificate in %q", certificate)
	}
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

// template enrols an image and returns a client that shows its certificate.
func (o *org) template(host string) (*client.Agent, string) {
	o.t.Helper()
	key, in := o.enrolment(host)
	in.Template = true
	res, err := client.Enrol(o.t.Context(), client.EnrolOptions{URL: o.agentsAt, Token: o.token(1), Request: in})
	if err != nil {
		o.t.Fatalf("enrol the template: %v", err)
	}
	return o.agent(pair(o.t, res.Certificate, key)), res.ImageID
}

// booted is a machine that enrolled by its image's certificate.
func (o *org) booted(image *client.Agent, host string) (*box, *ecdsa.PrivateKey, error) {
	key, in := o.enrolment(host)
	b, err := o.bootedWith(image, host, key, in)
	return b, key, err
}

func (o *org) bootedWith(image *client.Agent, host string, key *ecdsa.PrivateKey, in api.EnrolRequest) (*box, error) {
	res, err := image.EnrolInstance(o.t.Context(), in)
	if err != nil {
		return nil, err
	}
	cert := pair(o.t, res.Certificate, key)
	return &box{org: o, Agent: o.agent(cert), id: res.InstanceID, host: host, cert: cert, held: map[string]bool{}}, nil
}

func (o *org) instance(id string) (out api.Instance) {
	o.t.Helper()
	if err := o.admin.Do(o.t.Context(), "GET", "/api/v1/instances/"+id, nil, &out); err != nil {
		o.t.Fatal(err)
	}
	return out
}

func (o *org) decideInstance(id, what string) error {
	return o.admin.Do(o.t.Context(), "POST", "/api/v1/instances/"+id+"/"+what, api.Decision{Reason: "test"}, nil)
}

// L-06: machines that are started from one template share its image, and each has a key and a certificate of its own.
func TestTemplate_everyMachineGetsACertificateOfItsOwn(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		image, imageID := o.template("golden")
		var list instanceList
		for _, host := range []string{"web1", "web2"} {
			b, _, err := o.booted(image, host)
			if err != nil {
				t.Fatalf("first boot of %s: %v", host, err)
			}
			b.publish(disk("data-" + host)) // its provider names another image
			i := o.instance(b.id)
			eq(t, "image of "+host, i.ImageID, imageID)
			eq(t, "enrolled by the image", i.FromImage, true)
		}
		if err := o.admin.Do(t.Context(), "GET", "/api/v1/instances?image="+imageID, nil, &list); err != nil || len(list.Instances) != 2 {
			t.Fatalf("the image has %d machines (%v), want 2", len(list.Instances), err)
		}
		_, err := image.Nonce(t.Context())
		wantProblem(t, err, 401, "certificate-unknown")
		_, _, err = o.machine("other").bootFrom("x")
		wantProblem(t, err, 401, "image-certificate-unknown")
		if err := o.admin.Do(t.Context(), "POST", "/api/v1/images/"+imageID+"/revoke-certificate", api.Decision{}, nil); err != nil {
			t.Fatal(err)
		}
		_, _, err = o.booted(image, "web3")
		wantProblem(t, err, 401, "image-certificate-unknown")
		for _, event := range []string{"image.certificate-issued", "image.certificate-revoked"} {
			eq(t, event, o.count(event), 1)
		}
	})
}

type instanceList struct {
	Instances []api.Instance `json:"instances"`
}

// bootFrom tries to enrol another machine by this one's certificate.
func (b *box) bootFrom(host string) (*box, *ecdsa.PrivateKey, error) { return b.booted(b.Agent, host) }

func (o *org) count(event string) (n int) {
	o.t.Helper()
	for _, e := range allEvents(o) {
		if e.Event == event {
			n++
		}
	}
	return n
}

// The first key of a machine is bound to it: a copy with another key waits for a person, and a lost answer does not.
func TestTemplate_anotherKeyWaitsForAPerson(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		image, _ := o.template("golden")
		key, in := o.enrolment("web1")
		first, err := o.bootedWith(image, "web1", key, in)
		if err != nil {
			t.Fatal(err)
		}
		again, err := o.bootedWith(image, "web1", key, in)
		if err != nil || again.id != first.id {
			t.Fatalf("the same key again: %v", err)
		}
		d, _ := again.encrypted("data")
		for range 2 {
			_, _, err = o.booted(image, "web1")
			wantProblem(t, err, 409, "identity-bound")
		}
		if _, err := again.Nonce(t.Context()); err != nil {
			t.Fatalf("the machine that was first is disturbed: %v", err)
		}
		copyKey, copyIn := o.enrolment("web1")
		if err := o.decideInstance(first.id, "refuse-key"); err != nil {
			t.Fatal(err)
		}
		_, err = o.bootedWith(image, "web1", copyKey, copyIn)
		wantProblem(t, err, 409, "identity-bound") // a third key, a new question
		i := o.instance(first.id)
		if i.KeyConflict == nil || i.KeyConflict.Decision != "" || i.KeyConflict.Address != "127.0.0.1" {
			t.Fatalf("the page shows %+v", i.KeyConflict)
		}
		if err := o.decideInstance(first.id, "refuse-key"); err != nil {
			t.Fatal(err)
		}
		_, err = o.bootedWith(image, "web1", copyKey, copyIn)
		wantProblem(t, err, 403, "key-refused")
		if err := o.decideInstance(first.id, "accept-key"); err != nil {
			t.Fatal(err)
		}
		second, err := o.bootedWith(image, "web1", copyKey, copyIn)
		if err != nil || second.id != first.id {
			t.Fatalf("the accepted key: %v", err)
		}
		_, err = again.Nonce(t.Context())
		wantProblem(t, err, 401, "certificate-unknown")
		second.publish(disk("data"))
		o.policy(noPort80("web"), d)
		second.ask(d.ID).is(api.KeyPending) // who was accepted as the machine has none of its keys yet
		eq(t, "conflicts in the log", o.count("instance.key-conflict"), 2)
		eq(t, "key accepted", o.count("instance.key-accepted"), 1)
	})
}

// A renewed certificate is for the same key, and the one it was asked with counts until it ends, because the answer to
// the renewal may be lost.
func TestRenew_bothCertificatesCountUntilTheyEnd(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		key, in := o.enrolment("db1")
		res, err := client.Enrol(t.Context(), client.EnrolOptions{URL: o.agentsAt, Token: o.token(1), Request: in})
		if err != nil {
			t.Fatal(err)
		}
		old := o.agent(pair(t, res.Certificate, key))
		r.later(300 * 24 * time.Hour)
		for range 2 { // the first answer is lost
			if _, err := old.Renew(t.Context(), api.RenewRequest{CSR: csrOf(t, key), Time: o.now()}); err != nil {
				t.Fatalf("renew: %v", err)
			}
		}
		out, err := old.Renew(t.Context(), api.RenewRequest{CSR: csrOf(t, key), Time: o.now()})
		if err != nil {
			t.Fatal(err)
		}
		renewed := o.agent(pair(t, out.Certificate, key))
		for name, a := range map[string]*client.Agent{"former": old, "renewed": renewed} {
			if _, err := a.Nonce(t.Context()); err != nil {
				t.Errorf("the %s certificate: %v", name, err)
			}
		}
		other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		_, err = renewed.Renew(t.Context(), api.RenewRequest{CSR: csrOf(t, other), Time: o.now()})
		wantProblem(t, err, 403, "key-changed")
		r.later(100 * 24 * time.Hour)
		_, err = old.Nonce(t.Context())
		wantProblem(t, err, 401, "certificate-unknown")
		eq(t, "renewals in the log", o.count("instance.certificate-renewed"), 3)
	})
}

// A person ends a machine's certificate at once, with every one that a renewal left; a token brings the machine back.
func TestRevokeCertificate_endsEveryCertificateOfTheMachine(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		key, in := o.enrolment("db1")
		res, err := client.Enrol(t.Context(), client.EnrolOptions{URL: o.agentsAt, Token: o.token(1), Request: in})
		if err != nil {
			t.Fatal(err)
		}
		old := o.agent(pair(t, res.Certificate, key))
		out, err := old.Renew(t.Context(), api.RenewRequest{CSR: csrOf(t, key), Time: o.now()})
		if err != nil {
			t.Fatal(err)
		}
		renewed := o.agent(pair(t, out.Certificate, key))
		if err := o.decideInstance(res.InstanceID, "revoke-certificate"); err != nil {
			t.Fatal(err)
		}
		for _, a := range []*client.Agent{old, renewed} {
			_, err := a.Heartbeat(t.Context(), api.Heartbeat{Held: []api.HeldKey{}, Evidence: api.Evidence{Facts: []api.Fact{}, CollectedAt: o.now()}, Time: o.now()})
			wantProblem(t, err, 401, "certificate-unknown")
		}
		wantProblem(t, o.decideInstance(res.InstanceID, "revoke-certificate"), 409, "conflict")
		if i := o.instance(res.InstanceID); i.CertificateRevokedAt == nil || i.CertificateExpiresAt != nil {
			t.Errorf("the page shows %+v", i)
		}
		eq(t, "in the log", o.count("instance.certificate-revoked"), 1)
		back := o.machine("db1")
		eq(t, "the same machine", back.id, res.InstanceID)
		if _, err := back.Nonce(t.Context()); err != nil {
			t.Errorf("after enrolling again: %v", err)
		}
	})
}
