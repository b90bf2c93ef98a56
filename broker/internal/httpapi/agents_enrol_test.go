package httpapi_test

import (
	"crypto/tls"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/store"
)

func (o *org) enrol(token string, change func(*api.EnrolRequest)) (api.EnrolResponse, error) {
	_, in := o.enrolment("db1")
	if change != nil {
		change(&in)
	}
	return client.Enrol(o.t.Context(), client.EnrolOptions{URL: o.agentsAt, Token: token, Request: in})
}

// Whoever does not have a good token learns nothing about why; the account's log does.
func TestEnrol_refusalsAreUniformAndTheLogHasTheReason(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o, other := r.org("acme"), r.org("globex")
		good := o.token(1)
		if _, err := o.enrol(good, nil); err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(o.token(1), ".")
		wrongSecret := strings.Join([]string{parts[0], parts[1], strings.Split(o.token(1), ".")[2], parts[3]}, ".")
		unknown := strings.Join([]string{parts[0], "0197f1f0-0000-7000-8000-000000000000", parts[2], parts[3]}, ".")
		expired := o.token(1)
		var texts []string
		refused := func(what, token string, in func(*api.EnrolRequest), reason string, at *org) {
			t.Helper()
			_, err := o.enrol(token, in)
			if !client.Is(err, "enrolment-refused") || client.StatusOf(err) != 403 {
				t.Fatalf("%s: %v", what, err)
			}
			texts = append(texts, err.Error())
			found := false
			for _, e := range at.events("instance.enrolment-refused") {
				found = found || e.Detail["reason"] == reason
			}
			if !found {
				t.Errorf("%s: the log of %s does not say %q", what, at.name, reason)
			}
		}
		refused("used up", good, nil, "token used up", o)
		refused("wrong secret", wrongSecret, nil, "wrong secret", o)
		refused("unknown", unknown, nil, "unknown token", o)
		refused("another account's token", other.token(1), nil, "wrong account", other)
		r.later(2 * time.Hour)
		refused("expired", expired, nil, "token expired", o)
		for _, text := range texts {
			if text != texts[0] {
				t.Errorf("two refusals differ:\n%s\n%s", texts[0], text)
			}
		}
		if n := len(o.events("instance.enrolled")); n != 1 {
			t.Errorf("%d machines enrolled, want 1", n)
		}
		// A stranger cannot fill the log: a second unknown token within the minute leaves no record.
		before := len(o.events("instance.enrolment-refused"))
		r.offset.Store(0)
		for range 3 {
			_, _ = o.enrol(unknown, nil)
		}
		if after := len(o.events("instance.enrolment-refused")); after-before > 1 {
			t.Errorf("three unknown tokens left %d records", after-before)
		}
	})
}

func TestEnrol_refusesAClockThatIsAnHourOff(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		token := o.token(1)
		_, err := o.enrol(token, func(in *api.EnrolRequest) { in.Time = in.Time.Add(-time.Hour) })
		wantProblem(t, err, 422, "clock-skew")
		if !strings.Contains(err.Error(), "the broker's time is "+r.now().UTC().Format("2006-01-02T")) {
			t.Errorf("%v does not tell the broker's time", err)
		}
		if _, err := o.enrol(token, nil); err != nil {
			t.Fatalf("the token was used up by the refusal: %v", err)
		}
	})
}

func TestEnrol_refusesBadIdentities(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		token := o.token(100)
		for name, change := range map[string]func(*api.EnrolRequest){
			"no identity":        func(in *api.EnrolRequest) { in.Instance.Identity = "" },
			"control characters": func(in *api.EnrolRequest) { in.Instance.HostName = "db1\x1b[2J" },
			"long name":          func(in *api.EnrolRequest) { in.Instance.HostName = strings.Repeat("h", 256) },
			"odd provider":       func(in *api.EnrolRequest) { in.Provider = "../../etc" },
			"no CSR":             func(in *api.EnrolRequest) { in.CSR = "" },
			"CSR of garbage": func(in *api.EnrolRequest) {
				in.CSR = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
			},
		} {
			_, err := o.enrol(token, change)
			if !client.Is(err, "invalid") || client.StatusOf(err) != 422 {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// A machine that enrols again needs a token, and its older certificate is worth nothing from that moment.
func TestEnrol_againReplacesTheCertificate(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		first := o.machine("db1")
		if _, err := first.Devices(ctx); err != nil {
			t.Fatal(err)
		}
		second := o.machine("db1")
		if first.id != second.id {
			t.Fatalf("the same machine has IDs %s and %s", first.id, second.id)
		}
		_, err := first.Devices(ctx)
		wantProblem(t, err, 401, "certificate-unknown")
		if _, err := second.Devices(ctx); err != nil {
			t.Fatal(err)
		}
		if len(o.events("instance.enrolled-again")) != 1 {
			t.Error("the log does not say that the machine enrolled again")
		}
		// A token of another account does not replace it.
		other := r.org("globex")
		if _, err := other.enrol(other.token(1), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := second.Devices(ctx); err != nil {
			t.Fatalf("a machine of the same identity in another account displaced this one: %v", err)
		}
	})
}

// The pin is compared before anything is sent: another broker never sees the secret.
func TestEnrol_sendsNothingToABrokerWithAnotherCA(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		parts := strings.Split(o.token(1), ".")
		foreign := strings.Join([]string{parts[0], parts[1], parts[2], parts[2]}, ".")
		_, err := o.enrol(foreign, nil)
		if err == nil || !strings.Contains(err.Error(), "nothing was sent") {
			t.Fatalf("got %v", err)
		}
		if len(o.events("instance.enrolment-refused")) != 0 {
			t.Error("the broker saw the request")
		}
	})
}

func TestMachineGate_refusesCertificatesThatDoNotCount(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		// Signed by the CA, but never recorded: for a machine that does not exist, and for one that does.
		for _, id := range []string{"0197f1f0-0000-7000-8000-000000000000", b.id} {
			key, csr := newCSR(t)
			cert := must[[]byte](t)(r.ca.IssueClient([]byte(csr), id, o.id, time.Hour))
			block, _ := pem.Decode(cert)
			_, err := r.agent(tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}).Devices(ctx)
			wantProblem(t, err, 401, "certificate-unknown")
		}
		// The instance is gone from the inventory.
		if err := r.store.Tx(ctx, func(tx *store.Tx) error { return store.In[store.Instance](tx.Tenant(o.id)).Delete(b.id) }); err != nil {
			t.Fatal(err)
		}
		_, err := b.Devices(ctx)
		wantProblem(t, err, 401, "certificate-unknown")
	})
}
