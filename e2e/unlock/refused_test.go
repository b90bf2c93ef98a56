package unlock

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/e2e/lab"
)

// Another machine's certificate opens nothing of this one, whatever it asks.
func TestMachine_anothersCertificateOpensNothing(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		a := newAccount(t, s)
		m := a.machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{})
		r := m.approve(0, d.ID)
		ctx := t.Context()
		neighbour, foreign := a.peer(machineInfo("neighbour")), newAccount(t, s).peer(machineInfo("foreigner"))
		for who, p := range map[string]*peer{"a neighbour": neighbour, "another account's machine": foreign} {
			_, err := p.ask(d.ID)
			refusedAs(t, who+" asks for the device", err, "not-your-device")
			_, err = p.RequestStatus(ctx, r.RequestID, 0, 0)
			refusedAs(t, who+" reads the request", err, "not-found")
			_, err = p.Delivery(ctx, r.RequestID, api.DeliveryRequest{PublicKey: p.private.PublicKey()})
			refusedAs(t, who+" collects the key", err, "not-found")
			err = p.Report(ctx, r.RequestID, api.RequestEvent{Event: api.EventRevoked})
			refusedAs(t, who+" reports it revoked", err, "not-found")
		}
		if still := m.request(d.ID, api.KeyDelivered); still.RequestID != r.RequestID {
			t.Errorf("request %d took the place of %d", still.Number, r.Number)
		}

		// The machine enrols again: the certificate of before counts no more.
		_, csr := newCSR(t)
		if _, err := s.enrolAs(ctx, a.setup.AccountID, a.token(), csr, neighbour.info); err != nil {
			t.Fatal(err)
		}
		_, err := neighbour.Nonce(ctx)
		refusedAs(t, "the replaced certificate", err, "certificate-unknown")
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(s.broker.CA)
		bare := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 10 * time.Second}
		defer bare.CloseIdleConnections()
		answer, err := bare.Post(s.broker.AgentURL+api.PathNonce, "application/json", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("without a certificate: HTTP %d", answer.StatusCode)
		}
	})
}

// Two accounts on one broker, over the network as their people and machines reach it: nothing of one is there for the
// other.
func TestTenants_seeNothingOfEachOther(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		a, b := newAccount(t, s), newAccount(t, s)
		m := a.machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{})
		r := m.approve(0, d.ID)
		p := a.policy(d, auto())
		token, err := a.CreateToken(t.Context(), api.EnrolmentTokenWrite{Uses: 1, ExpireSeconds: 600})
		if err != nil {
			t.Fatal(err)
		}
		ids := map[string]string{"account": a.setup.AccountID, "device": d.ID, "image": d.ImageID, "instance": d.InstanceID,
			"policy": p.ID, "request": r.RequestID, "token": token.ID, "mount point": d.MountPoint}
		for _, path := range []string{"account", "users", "sessions", "roles", "enrolment-tokens", "devices", "raid-sets", "images",
			"instances", "policies", "running-instances", "audit", "time-settings"} {
			var body strings.Builder
			if err := b.Download(t.Context(), http.MethodGet, "/api/v1/"+path, nil, &body); err != nil {
				t.Errorf("GET %s: %v", path, err)
			}
			for what, id := range ids {
				if strings.Contains(body.String(), id) {
					t.Errorf("GET %s shows the other account's %s", path, what)
				}
			}
		}
		for _, try := range []struct{ method, path string }{
			{http.MethodGet, "devices/" + d.ID}, {http.MethodGet, "key-requests/" + r.RequestID}, {http.MethodGet, "policies/" + p.ID},
			{http.MethodGet, "instances/" + d.InstanceID}, {http.MethodDelete, "policies/" + p.ID}, {http.MethodDelete, "devices/" + d.ID},
			{http.MethodDelete, "enrolment-tokens/" + token.ID},
		} {
			refusedAs(t, try.method+" "+try.path, b.Do(t.Context(), try.method, "/api/v1/"+try.path, nil, nil), "not-found")
		}
		_, err = b.Revoke(t.Context(), r.RequestID, api.Decision{})
		refusedAs(t, "revoke", err, "not-found")
		_, err = b.EncryptDevice(t.Context(), d.ID, api.EncryptWrite{Confirm: d.Name, Destroy: true})
		refusedAs(t, "encrypt", err, "not-found")
		_, err = b.UnconfigureDevice(t.Context(), d.ID, api.UnconfigureWrite{Confirm: d.Name})
		refusedAs(t, "unconfigure", err, "not-found")
		_, err = s.broker.LogOnTo(t.Context(), b.setup.AccountID, a.setup.Admin)
		refusedAs(t, "log on to the other account", err, "log-on-refused")
		if !lab.Mounted(m.mountPoint(0)) {
			t.Error("the volume is gone")
		}
	})
}

// Tokens that do not count are refused alike; the account's log says why.
func TestToken_thatDoesNotCountIsRefused(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		ctx := t.Context()
		a, b := newAccount(t, s), newAccount(t, s)
		_, csr := newCSR(t)
		used := a.token()
		if _, err := s.enrolAs(ctx, a.setup.AccountID, used, csr, machineInfo("first")); err != nil {
			t.Fatal(err)
		}
		fresh := a.token()
		withdrawn, err := a.CreateToken(ctx, api.EnrolmentTokenWrite{Uses: 1, ExpireSeconds: 600})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Do(ctx, http.MethodDelete, "/api/v1/enrolment-tokens/"+withdrawn.ID, nil, nil); err != nil {
			t.Fatal(err)
		}
		parsed, err := client.ParseToken(fresh)
		if err != nil {
			t.Fatal(err)
		}
		guessed := parsed
		guessed.Secret = strings.Repeat("A", len(parsed.Secret))
		texts := map[string]bool{}
		for what, try := range map[string][2]string{"replayed": {a.setup.AccountID, used}, "of another account": {b.setup.AccountID, fresh},
			"withdrawn": {a.setup.AccountID, withdrawn.Token}, "guessed": {a.setup.AccountID, client.FormatToken(guessed)}} {
			_, err := s.enrolAs(ctx, try[0], try[1], csr, machineInfo("second"))
			refusedAs(t, "a token "+what, err, "enrolment-refused")
			var p *client.Problem
			if errors.As(err, &p) {
				texts[p.Detail+p.Hint] = true
			}
		}
		if len(texts) != 1 {
			t.Errorf("the refusals tell a stranger what is wrong: %v", texts)
		}
		// The agent's own command says it, with the exit code for the broker's refusal.
		command := exec.CommandContext(ctx, program("keyward-agent"), "enrol", "--account", a.setup.AccountID, "--token-file", "-", "--url",
			s.broker.AgentURL, "--config", filepath.Join(tempDir(t), "agent.yaml"), "--state-dir", tempDir(t))
		command.Stdin = strings.NewReader(used)
		out, err := command.CombinedOutput()
		if command.ProcessState.ExitCode() != 5 || !strings.Contains(string(out), "new token") {
			t.Errorf("keyward-agent enrol: %v: %s", err, out)
		}
		var log strings.Builder
		if err := a.AuditExport(ctx, &log); err != nil {
			t.Fatal(err)
		}
		for _, why := range []string{"token used up", "wrong account", "token deleted", "wrong secret"} {
			if !strings.Contains(log.String(), why) && !(why == "token deleted" && strings.Contains(log.String(), "unknown token")) {
				t.Errorf("the log does not say %q", why)
			}
		}
		if strings.Contains(log.String(), parsed.Secret) {
			t.Error("the log holds a token's secret")
		}
		// A minute after the broker's start its first token has ended.
		if wait := time.Until(s.brief.ExpiresAt); wait > 0 {
			time.Sleep(wait + 100*time.Millisecond)
		}
		_, err = s.enrolAs(ctx, s.broker.Setup.AccountID, s.brief.Token, csr, machineInfo("late"))
		refusedAs(t, "a token that has ended", err, "enrolment-refused")
	})
}
