// Package rootkeytest holds a stand-in for the transit secrets engine of OpenBao and Vault. It follows the HTTP API as both
// document it and as OpenBao's source has it (builtin/logical/transit): key versions, associated data, status codes and
// error texts.
package rootkeytest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Token is the token that the stand-in takes first.
const Token = "s.first-token"

// Transit is a server with one transit engine at "transit" and, at the start, one key "keyward".
type Transit struct {
	*httptest.Server
	dir string

	mu         sync.Mutex
	token      string
	sealed     bool
	denied     bool
	calls      int
	keys       map[string]*transitKey
	mayReadKey bool
}

type transitKey struct {
	kind string
	// versions are the keys of version 1 and on.
	versions   [][]byte
	minDecrypt int
}

// NewTransit starts a server; it ends with the test.
func NewTransit(t testing.TB) *Transit {
	t.Helper()
	f := &Transit{dir: t.TempDir(), token: Token, keys: map[string]*transitKey{}, mayReadKey: true}
	f.AddKey("keyward", "aes256-gcm96")
	f.Server = httptest.NewTLSServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

// AddKey makes a key of a type.
func (f *Transit) AddKey(name, kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[name] = &transitKey{kind: kind, versions: [][]byte{random(32)}, minDecrypt: 1}
}

// Rotate gives a key a new version and, when retire is set, no longer decrypts the ones before.
func (f *Transit) Rotate(name string, retire bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.keys[name]
	k.versions = append(k.versions, random(32))
	if retire {
		k.minDecrypt = len(k.versions)
	}
}

// Retire no longer decrypts what versions before the newest one have encrypted.
func (f *Transit) Retire(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[name].minDecrypt = len(f.keys[name].versions)
}

// Delete removes a key.
func (f *Transit) Delete(name string) { f.mu.Lock(); defer f.mu.Unlock(); delete(f.keys, name) }

// Seal seals or unseals the server.
func (f *Transit) Seal(sealed bool) { f.mu.Lock(); defer f.mu.Unlock(); f.sealed = sealed }

// Deny takes the token's rights away, or gives them back.
func (f *Transit) Deny(denied bool) { f.mu.Lock(); defer f.mu.Unlock(); f.denied = denied }

// HideKeys takes the right to read keys away; encrypt and decrypt stay.
func (f *Transit) HideKeys() { f.mu.Lock(); defer f.mu.Unlock(); f.mayReadKey = false }

// SetToken makes another token the valid one.
func (f *Transit) SetToken(token string) { f.mu.Lock(); defer f.mu.Unlock(); f.token = token }

// Calls is how many calls came in.
func (f *Transit) Calls() int { f.mu.Lock(); defer f.mu.Unlock(); return f.calls }

// TokenFile is where Describe puts the token.
func (f *Transit) TokenFile() string { return filepath.Join(f.dir, "token") }

// Describe writes the description of a key, its token and the server's authority, and returns the description's path.
// Further lines are added as they are.
func (f *Transit) Describe(t testing.TB, key string, lines ...string) string {
	t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	text := fmt.Sprintf("provider: transit\naddress: %s\nkey: %s\nca-file: ca.pem\ntoken-from: token\n%s\n", f.URL, key, strings.Join(lines, "\n"))
	for name, data := range map[string][]byte{"ca.pem": ca, "token": []byte(Token + "\n"), key + ".yaml": []byte(text)} {
		if err := os.WriteFile(filepath.Join(f.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(f.dir, key+".yaml")
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func (f *Transit) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	switch {
	case f.sealed:
		refuse(w, 503, "Vault is sealed")
		return
	case f.denied || r.Header.Get("X-Vault-Token") != f.token:
		refuse(w, 403, "1 error occurred:\n\t* permission denied\n\n")
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/")
	if len(parts) != 2 || !strings.HasPrefix(r.URL.Path, "/v1/transit/") {
		refuse(w, 404)
		return
	}
	key := f.keys[parts[1]]
	if parts[0] == "keys" {
		f.read(w, r, key)
		return
	}
	if r.Method != http.MethodPost && r.Method != http.MethodPut {
		refuse(w, 405, "unsupported operation")
		return
	}
	if key == nil {
		refuse(w, 400, "encryption key not found")
		return
	}
	var in struct {
		Plaintext, Ciphertext *string
		AssociatedData        string `json:"associated_data"`
		KeyVersion            int    `json:"key_version"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		refuse(w, 400, "failed to parse JSON input: "+err.Error())
		return
	}
	switch parts[0] {
	case "encrypt":
		key.encrypt(w, in.Plaintext, in.AssociatedData)
	case "decrypt":
		key.decrypt(w, in.Ciphertext, in.AssociatedData)
	case "rewrap": // which takes no associated data, in OpenBao and in Vault
		refuse(w, 400, "cipher: message authentication failed")
	default:
		refuse(w, 404)
	}
}

func (f *Transit) read(w http.ResponseWriter, r *http.Request, key *transitKey) {
	switch {
	case r.Method != http.MethodGet:
		refuse(w, 405, "unsupported operation")
	case !f.mayReadKey:
		refuse(w, 403, "1 error occurred:\n\t* permission denied\n\n")
	case key == nil:
		refuse(w, 404)
	default:
		answer(w, map[string]any{"type": key.kind, "derived": false, "exportable": false, "latest_version": len(key.versions), "min_decryption_version": key.minDecrypt})
	}
}

func (k *transitKey) encrypt(w http.ResponseWriter, plaintext *string, aad string) {
	if plaintext == nil {
		refuse(w, 400, "missing plaintext to encrypt")
		return
	}
	plain, err := base64.StdEncoding.DecodeString(*plaintext)
	if err != nil {
		refuse(w, 400, err.Error())
		return
	}
	ad, err := base64.StdEncoding.DecodeString(aad)
	if err != nil {
		refuse(w, 400, "failed to get associated_data from factory: "+err.Error())
		return
	}
	if aad != "" && !strings.Contains(k.kind, "gcm") {
		refuse(w, 400, "'[0].associated_data' provided for non-AEAD cipher suite "+k.kind)
		return
	}
	version := len(k.versions)
	nonce := random(12)
	sealed := k.gcm(version).Seal(nonce, nonce, plain, ad)
	answer(w, map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", version, base64.StdEncoding.EncodeToString(sealed)), "key_version": version})
}

func (k *transitKey) decrypt(w http.ResponseWriter, ciphertext *string, aad string) {
	if ciphertext == nil || *ciphertext == "" {
		refuse(w, 400, "missing ciphertext to decrypt")
		return
	}
	rest, ok := strings.CutPrefix(*ciphertext, "vault:v")
	number, text, ok2 := strings.Cut(rest, ":")
	version, err := strconv.Atoi(number)
	if !ok || !ok2 || err != nil {
		refuse(w, 400, "invalid ciphertext: no prefix")
		return
	}
	if version < k.minDecrypt {
		refuse(w, 400, "ciphertext or signature version is disallowed by policy (too old)")
		return
	}
	if version > len(k.versions) {
		refuse(w, 400, "invalid ciphertext: version is too new")
		return
	}
	sealed, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(sealed) < 12+16 {
		refuse(w, 400, "invalid ciphertext: could not decode base64")
		return
	}
	ad, err := base64.StdEncoding.DecodeString(aad)
	if err != nil {
		refuse(w, 400, err.Error())
		return
	}
	plain, err := k.gcm(version).Open(nil, sealed[:12], sealed[12:], ad)
	if err != nil {
		refuse(w, 400, "cipher: message authentication failed")
		return
	}
	answer(w, map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plain)})
}

func (k *transitKey) gcm(version int) cipher.AEAD {
	block, err := aes.NewCipher(k.versions[version-1])
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func answer(w http.ResponseWriter, data map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"request_id": "1", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data, "wrap_info": nil, "warnings": nil, "auth": nil})
}

func refuse(w http.ResponseWriter, status int, errors ...string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if errors == nil {
		errors = []string{}
	}
	json.NewEncoder(w).Encode(map[string]any{"errors": errors})
}
