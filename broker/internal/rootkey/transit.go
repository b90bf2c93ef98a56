package rootkey

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"keyward/broker/internal/keystore"
)

// maxAnswer bounds an answer of OpenBao or Vault, in bytes.
const maxAnswer = 1 << 20

// transit is a key of the transit secrets engine of OpenBao or Vault (both have the same HTTP API, "Transit secrets engine
// (API)"). A token that may update encrypt/KEY and decrypt/KEY is enough; it should not be able to create keys, because
// encrypt/KEY would then make a new key where the old one was deleted.
type transit struct {
	d      Description
	client *http.Client

	mu    sync.Mutex
	token string
}

func newTransit(d Description) (place, error) {
	t := &transit{d: d}
	roots, err := authorities(d.CAFile)
	if err != nil {
		return nil, err
	}
	t.client = &http.Client{
		Timeout:   d.Timeout,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute},
		// A redirect would take the token to another host.
		CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			return fmt.Errorf("it redirects to %s: put the address of the active server, or of a load balancer that finds it, into the description", r.URL.Host)
		},
	}
	if t.token, err = readSecret(d.TokenFrom); err != nil {
		return nil, fmt.Errorf("reading the token for %s: %w", d.Address, err)
	}
	if err := t.suits(); err != nil {
		return nil, err
	}
	return t, nil
}

// authorities reads a PEM file of certificate authorities; empty means those of the system.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the authorities of the server: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the authorities of the server: %s holds no certificate in PEM", file)
	}
	return pool, nil
}

func (t *transit) id() string { return t.d.id(t.d.Namespace, t.d.Mount, t.d.Key) }

func (t *transit) close() error {
	t.client.CloseIdleConnections()
	return nil
}

// sealing and opening are the bodies of encrypt and decrypt; encoding/json writes bytes as the Base64 that the API takes.
type sealing struct {
	Plaintext []byte `json:"plaintext"`
	AAD       []byte `json:"associated_data"`
}

type opening struct {
	Ciphertext string `json:"ciphertext"`
	AAD        []byte `json:"associated_data"`
}

func (t *transit) encrypt(aad, plain []byte) ([]byte, error) {
	var out struct{ Ciphertext string }
	if err := t.call(http.MethodPost, "encrypt", sealing{plain, aad}, &out); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(out.Ciphertext, "vault:v") {
		return nil, t.unreachable(errors.New("its answer holds no ciphertext"))
	}
	return []byte(out.Ciphertext), nil
}

func (t *transit) decrypt(aad, sealed []byte) ([]byte, error) {
	var out struct{ Plaintext []byte }
	if err := t.call(http.MethodPost, "decrypt", opening{string(sealed), aad}, &out); err != nil {
		return nil, err
	}
	return out.Plaintext, nil
}

// suits refuses a key that cannot bind what it wraps. A token that may not read the key is no reason to stop: the first
// encryption shows whether the key takes associated data.
func (t *transit) suits() error {
	var key struct {
		Type       string
		Derived    bool
		Exportable bool
	}
	err := t.call(http.MethodGet, "keys", nil, &key)
	var refused *answer
	if errors.As(err, &refused) && refused.status == http.StatusForbidden {
		return nil
	}
	if errors.As(err, &refused) && refused.status == http.StatusNotFound {
		return t.unreachable(fmt.Errorf("it has no key %s: make it with bao write -f %s/keys/%s", t.d.Key, t.d.Mount, t.d.Key))
	}
	if err != nil {
		return err
	}
	switch {
	case key.Type != "aes256-gcm96" && key.Type != "chacha20-poly1305" && key.Type != "xchacha20-poly1305":
		return fmt.Errorf("key %s at %s has type %q: make one of type aes256-gcm96", t.d.Key, t.d.Address, key.Type)
	case key.Derived:
		return fmt.Errorf("key %s at %s is made for derivation: make one without", t.d.Key, t.d.Address)
	}
	return nil
}

// answer is an answer that is no success.
type answer struct {
	status int
	says   string
}

func (a *answer) Error() string { return fmt.Sprintf("it answers %d: %s", a.status, a.says) }

// call makes one call. A refused token is read again once, because an agent beside the broker may have renewed it.
func (t *transit) call(method, what string, body, out any) error {
	t.mu.Lock()
	token := t.token
	t.mu.Unlock()
	err := t.once(token, method, what, body, out)
	var a *answer
	if !errors.As(err, &a) || a.status != http.StatusForbidden {
		return err
	}
	fresh, readErr := readSecret(t.d.TokenFrom)
	if readErr != nil || fresh == token {
		return err
	}
	t.mu.Lock()
	t.token = fresh
	t.mu.Unlock()
	return t.once(fresh, method, what, body, out)
}

func (t *transit) once(token, method, what string, body, out any) error {
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return err
		}
		defer clear(payload)
	}
	ctx, cancel := context.WithTimeout(context.Background(), t.d.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(t.d.Address, "/")+"/v1/"+t.d.Mount+"/"+what+"/"+t.d.Key, bytes.NewReader(payload))
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Token", token)
	req.Header.Set("X-Vault-Request", "true") // the proxies of both products want it
	if t.d.Namespace != "" {
		req.Header.Set("X-Vault-Namespace", t.d.Namespace)
	}
	res, err := t.client.Do(req)
	if err != nil {
		return t.unreachable(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	defer clear(data)
	if err != nil || len(data) > maxAnswer {
		return t.unreachable(errors.Join(errors.New("its answer was cut off or is too long"), err))
	}
	if res.StatusCode != http.StatusOK {
		return t.refusal(res.StatusCode, data)
	}
	reply := struct{ Data any }{out}
	if err := json.Unmarshal(data, &reply); err != nil {
		return t.unreachable(errors.New("its answer is not that of a transit engine: is the address that of OpenBao or Vault?"))
	}
	return nil
}

// refusal turns an answer into an error: 400 is about the bytes, everything else about the way to the key.
func (t *transit) refusal(status int, data []byte) error {
	var said struct{ Errors []string }
	_ = json.Unmarshal(data, &said)
	a := &answer{status, strings.Join(said.Errors, "; ")}
	if a.says == "" {
		a.says = http.StatusText(status)
	}
	switch {
	case status == http.StatusBadRequest && strings.Contains(a.says, "encryption key not found"):
		return t.unreachable(fmt.Errorf("%w: the key %s is gone: restore it", a, t.d.Key))
	case status == http.StatusBadRequest:
		return fmt.Errorf("%s: %w: %w", t.d.Address, keystore.ErrUnwrap, a)
	case status == http.StatusForbidden:
		return t.unreachable(fmt.Errorf("%w: give the broker a token that may update %s/encrypt/%s and %s/decrypt/%s", a, t.d.Mount, t.d.Key, t.d.Mount, t.d.Key))
	case status == http.StatusServiceUnavailable:
		return t.unreachable(fmt.Errorf("%w: unseal it", a))
	}
	return t.unreachable(a)
}

func (t *transit) unreachable(err error) error {
	return fmt.Errorf("%w at %s: %w", keystore.ErrUnreachable, t.d.Address, err)
}
