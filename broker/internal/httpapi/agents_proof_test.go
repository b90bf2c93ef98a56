package httpapi_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
)

// Key requests and heartbeats look the certificate up in their own transaction. Nobody else than the machine gets anything
// from them: no key, no answer that the machine got before, no life for a machine that is gone.
func TestProves_onlyTheCertificateOnRecordIsServed(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		other := r.org("globex")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		w := b.wire()
		in, _ := b.request(d.ID, w.nonce())
		key := uuid.NewString()
		if status, text := w.ask(key, in); status != http.StatusOK {
			t.Fatalf("the machine itself: %d %s", status, text)
		}
		before := o.count("key-request.asked") + o.count("key-request.refused") + o.count("key-request.approved")

		strangers := map[string]*box{}
		for name, names := range map[string][2]string{
			"another certificate in its name": {b.id, o.id}, "its name in another account": {b.id, other.id},
			"a machine that is not there": {"0197f1f0-0000-7000-8000-000000000000", o.id}, "an account that is not there": {b.id, "0197f1f0-0000-7000-8000-000000000001"},
		} {
			private, csr := newCSR(t)
			block, _ := pem.Decode(must[[]byte](t)(r.ca.IssueClient([]byte(csr), names[0], names[1], time.Hour)))
			cert := tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: private}
			strangers[name] = &box{org: o, Agent: r.agent(cert), id: b.id, host: b.host, cert: cert, held: map[string]bool{}}
		}
		refused := func(name string, b *box) {
			w := b.wire()
			fresh, _ := b.request(d.ID, w.nonce())
			for what, try := range map[string]struct {
				key string
				in  api.KeyRequest
			}{"the same call": {key, in}, "a call of its own": {uuid.NewString(), fresh}} {
				if status, text := w.ask(try.key, try.in); status != http.StatusUnauthorized || !bytes.Contains(text, []byte("certificate-unknown")) {
					t.Errorf("%s, %s: %d %s", name, what, status, text)
				}
			}
			_, err := b.Heartbeat(t.Context(), api.Heartbeat{Held: []api.HeldKey{}, Evidence: b.evidence(""), Time: o.now()})
			if !client.Is(err, "certificate-unknown") {
				t.Errorf("%s, a heartbeat: %v", name, err)
			}
		}
		for name, stranger := range strangers {
			refused(name, stranger)
		}
		if status, text := w.ask(key, in); status != http.StatusOK {
			t.Errorf("the machine's repetition: %d %s", status, text)
		}
		if err := o.decideInstance(b.id, "revoke-certificate"); err != nil {
			t.Fatal(err)
		}
		refused("the machine after its certificate was revoked", b)
		eq(t, "records of requests", o.count("key-request.asked")+o.count("key-request.refused")+o.count("key-request.approved"), before)
	})
}
