package rootkey

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keyward/broker/internal/keystore"
	"keyward/broker/internal/rootkey/rootkeytest"
)

// contract is what every root key that is kept elsewhere must do.
func contract(t *testing.T, root, again keystore.Root) {
	t.Helper()
	if root.ID() != again.ID() || len(root.ID()) != 16 {
		t.Errorf("opened twice it is called %s and %s", root.ID(), again.ID())
	}
	for _, secret := range [][]byte{{1}, bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte("secret"), 500)} {
		wrapped, err := root.Wrap([]byte("row 1"), keystore.KeyOf(bytes.Clone(secret)))
		if err != nil {
			t.Fatal(err)
		}
		if len(secret) > 1 && bytes.Contains(wrapped, secret) {
			t.Error("what is wrapped stands there in clear")
		}
		for _, r := range []keystore.Root{root, again, root} { // the second time from what it holds
			if got, err := r.Unwrap([]byte("row 1"), wrapped); err != nil || !bytes.Equal(got.Bytes(), secret) {
				t.Fatalf("%d bytes do not come back: %v", len(secret), err)
			}
		}
		for name, c := range map[string]struct{ aad, wrapped []byte }{
			"another row":     {[]byte("row 2"), wrapped},
			"no row":          {nil, wrapped},
			"a changed byte":  {[]byte("row 1"), flipped(wrapped, len(wrapped)-3)},
			"another version": {[]byte("row 1"), flipped(wrapped, 0)},
			"cut off":         {[]byte("row 1"), wrapped[:len(wrapped)-4]},
			"nothing":         {[]byte("row 1"), nil},
			"the version":     {[]byte("row 1"), wrapped[:1]},
		} {
			if k, err := root.Unwrap(c.aad, c.wrapped); !errors.Is(err, keystore.ErrUnwrap) || k.Len() != 0 {
				t.Errorf("%s: %v, want ErrUnwrap", name, err)
			}
		}
	}
	a, err := keystore.NewAccountKey(root, "account")
	if err != nil {
		t.Fatal(err)
	}
	d, err := keystore.NewDeviceKey(root, a, "device", 256, 1)
	if err != nil {
		t.Fatal(err)
	}
	if k, err := keystore.OpenDeviceKey(again, a, d); err != nil || k.Len() != 64 {
		t.Errorf("a device key under it does not open: %v", err)
	}
	for _, n := range []int{0, maxSecret + 1} {
		if _, err := root.Wrap(nil, keystore.KeyOf(make([]byte, n))); err == nil {
			t.Errorf("%d bytes were wrapped", n)
		}
	}
	if _, out := keystore.RootSecret(root); out {
		t.Error("the key itself came out")
	}
}

func flipped(b []byte, i int) []byte {
	b = slices.Clone(b)
	b[i] ^= 1
	return b
}

func openRoot(t testing.TB, ref string, o Options) *Held {
	t.Helper()
	r, err := Open(ref, o)
	if err != nil {
		t.Fatal(err)
	}
	h := r.(*Held)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("closing the root key: %v", err)
		}
	})
	return h
}

func TestTransit_keepsTheContract(t *testing.T) {
	t.Parallel()
	f := rootkeytest.NewTransit(t)
	ref := f.Describe(t, "keyward")
	contract(t, openRoot(t, ref, Options{}), openRoot(t, ref, Options{}))
	if openRoot(t, ref, Options{}).Provider() != keystore.ProviderTransit {
		t.Error("wrong provider")
	}
	f.AddKey("other", "aes256-gcm96")
	if openRoot(t, ref, Options{}).ID() == openRoot(t, f.Describe(t, "other"), Options{}).ID() {
		t.Error("two keys have one name")
	}
	f.HideKeys() // a token that may only encrypt and decrypt
	openRoot(t, ref, Options{})
}

func TestTransit_olderVersionsOpenUntilTheyAreRetired(t *testing.T) {
	t.Parallel()
	f := rootkeytest.NewTransit(t)
	ref := f.Describe(t, "keyward")
	wrapped, err := openRoot(t, ref, Options{}).Wrap([]byte("row"), keystore.KeyOf([]byte("secret")))
	if err != nil {
		t.Fatal(err)
	}
	f.Rotate("keyward", false)
	f.HideKeys() // who may only encrypt and decrypt finds out as well
	root := openRoot(t, ref, Options{})
	if newest, err := root.Newest(); newest != 2 || err != nil || root.Version(wrapped) != 1 {
		t.Errorf("wrapped with version %d of %d, %v", root.Version(wrapped), newest, err)
	}
	if _, err := root.Unwrap([]byte("row"), wrapped); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	next, err := root.Wrap([]byte("row"), keystore.KeyOf([]byte("secret")))
	if err != nil || !strings.Contains(string(next), "vault:v2:") {
		t.Errorf("the new version is not used: %q, %v", next, err)
	}
	for _, none := range []string{"", "\x02", "\x02vault:v", "\x02vault:vx:a", "\x02vault:v0:a", "\x01vault:v1:a", "\x02vault:v99999999999999999999999999:a", "\x02vault:v1"} {
		if n := root.Version([]byte(none)); n != 0 {
			t.Errorf("%q is of version %d", none, n)
		}
	}
	f.Seal(true)
	if _, err := root.Newest(); !errors.Is(err, keystore.ErrUnreachable) {
		t.Errorf("the newest version of a sealed key: %v", err)
	}
	f.Seal(false)
	f.Rotate("keyward", true)
	if _, err := openRoot(t, ref, Options{}).Unwrap([]byte("row"), wrapped); !errors.Is(err, keystore.ErrUnwrap) || !strings.Contains(err.Error(), "too old") {
		t.Errorf("with a retired version: %v", err)
	}
}

// The start says what is wrong and what to do.
func TestTransit_startFailsUsefully(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(t *testing.T, f *rootkeytest.Transit) string
		says    string
	}{
		"sealed":          {func(t *testing.T, f *rootkeytest.Transit) string { f.Seal(true); return f.Describe(t, "keyward") }, "unseal it"},
		"a refused token": {func(t *testing.T, f *rootkeytest.Transit) string { f.Deny(true); return f.Describe(t, "keyward") }, "give the broker a token"},
		"no such key":     {func(t *testing.T, f *rootkeytest.Transit) string { return f.Describe(t, "none") }, "make it with"},
		"a key for signing": {func(t *testing.T, f *rootkeytest.Transit) string {
			f.AddKey("sign", "ed25519")
			return f.Describe(t, "sign")
		}, "aes256-gcm96"},
		"a key that nobody may look at and that cannot bind": {func(t *testing.T, f *rootkeytest.Transit) string {
			f.AddKey("rsa", "rsa-4096")
			f.HideKeys()
			return f.Describe(t, "rsa")
		}, "non-AEAD"},
		"nobody there": {func(t *testing.T, f *rootkeytest.Transit) string {
			ref := f.Describe(t, "keyward")
			f.Close()
			return ref
		}, "refused"},
		"an authority that does not vouch": {func(t *testing.T, f *rootkeytest.Transit) string {
			ref := f.Describe(t, "keyward")
			data, _ := os.ReadFile(ref)
			os.WriteFile(ref, bytes.Replace(data, []byte("ca-file: ca.pem\n"), nil, 1), 0o600)
			return ref
		}, "certificate"},
		"a token that others can read": {func(t *testing.T, f *rootkeytest.Transit) string {
			ref := f.Describe(t, "keyward")
			os.Chmod(f.TokenFile(), 0o644)
			return ref
		}, "chmod 0600"},
		"another server": {func(t *testing.T, f *rootkeytest.Transit) string {
			f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>hello") })
			return f.Describe(t, "keyward")
		}, "is the address that of OpenBao or Vault?"},
		"a redirect": {func(t *testing.T, f *rootkeytest.Transit) string {
			f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://other.example/", http.StatusTemporaryRedirect)
			})
			return f.Describe(t, "keyward")
		}, "load balancer"},
		"an endless answer": {func(t *testing.T, f *rootkeytest.Transit) string {
			f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, maxAnswer+10)) })
			return f.Describe(t, "keyward")
		}, "too long"},
		"silence": {func(t *testing.T, f *rootkeytest.Transit) string {
			f.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			return f.Describe(t, "keyward", "timeout: 200ms")
		}, "deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := rootkeytest.NewTransit(t)
			ref := c.prepare(t, f)
			_, err := Open(ref, Options{})
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), ref) {
				t.Errorf("got %v, want something of %q that names %s", err, c.says, ref)
			}
			if err != nil && strings.Contains(err.Error(), rootkeytest.Token) {
				t.Errorf("the token is in the message: %v", err)
			}
		})
	}
}

func TestTransit_readsARenewedToken(t *testing.T) {
	t.Parallel()
	f := rootkeytest.NewTransit(t)
	root := openRoot(t, f.Describe(t, "keyward"), Options{})
	f.SetToken("s.second-token")
	if err := root.Check(); !errors.Is(err, keystore.ErrUnreachable) {
		t.Errorf("with a token that ran out: %v", err)
	}
	if err := os.WriteFile(f.TokenFile(), []byte("s.second-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := root.Check(); err != nil {
		t.Errorf("after the token was renewed: %v", err)
	}
}

// A token that goes to whoever answers first would be lost: the address is https, or on this machine.
func TestTransit_plainHTTPOnlyOnThisMachine(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	for address, ok := range map[string]bool{s.URL: true, "http://bao.example:8200": false, "https://bao.example:8200": true, "ftp://127.0.0.1": false,
		"https://user@bao.example": false, "https://bao.example/path": false, "bao.example:8200": false, "https://": false} {
		_, err := ParseDescription([]byte("provider: transit\nkey: k\ntoken-from: t\naddress: " + address))
		if (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// While the place does not answer, what it opened before is used; after the time for that it is wiped.
func TestHeld_goesOnWithoutTheRootForItsTime(t *testing.T) {
	t.Parallel()
	f := rootkeytest.NewTransit(t)
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	root := openRoot(t, f.Describe(t, "keyward"), Options{Keep: time.Hour, Clock: func() time.Time { return now }})
	known, err := keystore.NewAccountKey(root, "known")
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := keystore.NewAccountKey(root, "unknown")
	if err != nil {
		t.Fatal(err)
	}
	device, err := keystore.NewDeviceKey(root, known, "device", 128, 1) // opens the account's key
	if err != nil {
		t.Fatal(err)
	}
	calls := f.Calls()
	for range 100 {
		if _, err := keystore.OpenDeviceKey(root, known, device); err != nil {
			t.Fatal(err)
		}
	}
	if f.Calls() != calls {
		t.Errorf("%d calls for a key that is held", f.Calls()-calls)
	}

	f.Seal(true)
	now = now.Add(59 * time.Minute)
	if err := root.Check(); !errors.Is(err, keystore.ErrUnreachable) {
		t.Errorf("a sealed server: %v", err)
	}
	if s := root.Status(); s.Err == nil || !s.Until.Equal(now.Add(time.Minute)) {
		t.Errorf("status %+v", s)
	}
	if _, err := keystore.OpenDeviceKey(root, known, device); err != nil {
		t.Errorf("a held key does not open: %v", err)
	}
	if _, err := keystore.NewDeviceKey(root, unknown, "device", 128, 1); !errors.Is(err, keystore.ErrUnreachable) {
		t.Errorf("a key that is not held: %v", err)
	}
	now = now.Add(2 * time.Minute)
	if err := root.Check(); err == nil {
		t.Error("a sealed server answered")
	}
	if _, err := keystore.OpenDeviceKey(root, known, device); !errors.Is(err, keystore.ErrUnreachable) {
		t.Errorf("after its time a held key still opens: %v", err)
	}
	if n := len(root.keys); n != 0 {
		t.Errorf("%d keys are held", n)
	}

	f.Seal(false)
	if err := root.Check(); err != nil || root.Status().Err != nil {
		t.Errorf("it is back and %v, %+v", err, root.Status())
	}
	if _, err := keystore.OpenDeviceKey(root, known, device); err != nil {
		t.Errorf("back again: %v", err)
	}
	// Another key in its place, as after a deletion, is found out.
	f.AddKey("keyward", "aes256-gcm96")
	if err := root.Check(); !errors.Is(err, keystore.ErrUnreachable) || !strings.Contains(err.Error(), "no longer opens") {
		t.Errorf("another key in its place: %v", err)
	}
	f.Delete("keyward")
	if err := root.Check(); !errors.Is(err, keystore.ErrUnreachable) || !strings.Contains(err.Error(), "gone") {
		t.Errorf("no key in its place: %v", err)
	}
}

func TestDescription_refuses(t *testing.T) {
	t.Parallel()
	const transit, token, kmip = "provider: transit\naddress: https://a:1\nkey: k\ntoken-from: t\n",
		"provider: pkcs11\nmodule: /m.so\ntoken: t\nkey: k\npin-from: p\n", "provider: kmip\naddress: a:5696\nkey: k\nca-file: c\ncert-file: c\nkey-file: k\n"
	for _, good := range []string{transit, token, kmip, transit + "mount: /team/transit/\nnamespace: ns\nid: ours\ntimeout: 2s\n"} {
		if _, err := ParseDescription([]byte(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for name, c := range map[string]struct{ text, says string }{
		"an empty file":         {"", "EOF"},
		"another provider":      {"provider: cloud\nkey: k\n", "not transit, pkcs11 or kmip"},
		"a misspelt member":     {transit + "tokn: x\n", "tokn"},
		"another's member":      {transit + "module: /m.so\n", "module means nothing"},
		"no key":                {strings.Replace(transit, "key: k\n", "", 1), "key is missing"},
		"no token":              {strings.Replace(transit, "token-from: t\n", "", 1), "token-from is missing"},
		"no PIN":                {strings.Replace(token, "pin-from: p\n", "", 1), "pin-from is missing"},
		"no certificate":        {strings.Replace(kmip, "cert-file: c\n", "", 1), "cert-file is missing"},
		"no authority":          {strings.Replace(kmip, "ca-file: c\n", "", 1), "ca-file is missing"},
		"a path as a key":       {strings.Replace(transit, "key: k\n", "key: ../../sys/seal\n", 1), "no name"},
		"a mount that climbs":   {transit + "mount: a/../b\n", "no name"},
		"a short timeout":       {transit + "timeout: 1ms\n", "timeout"},
		"two documents":         {transit + "---\n" + transit, "more than one"},
		"no YAML":               {"provider: [", "yaml"},
		"more than it may have": {transit + "#" + strings.Repeat("x", maxDescription), "longer"},
	} {
		if _, err := ParseDescription([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want something of %q", name, err, c.says)
		}
	}
}

func FuzzParseDescription(f *testing.F) {
	f.Add([]byte("provider: transit\naddress: https://a:1\nkey: k\ntoken-from: t\n"))
	f.Add([]byte("provider: kmip\naddress: a:5696\nkey: k\nca-file: c\ncert-file: c\nkey-file: k\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ParseDescription(data)
		if err == nil && (d.Key == "" || d.Timeout <= 0 || d.Provider.Local()) {
			t.Fatalf("accepted %+v", d)
		}
	})
}

func TestCredential_isReadFromSystemdsFolder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keyward-root")
	if err := os.WriteFile(path, bytes.Repeat([]byte{9}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o440); err != nil { // as the mask of systemd's access control list looks
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	r, err := Open("credential:keyward-root", Options{})
	if err != nil || r.Provider() != keystore.ProviderCredential {
		t.Fatalf("%v", err)
	}
	for ref, says := range map[string]string{"credential:none": "LoadCredentialEncrypted=none", "credential:": "names no credential", "credential:../x": "names no credential"} {
		if _, err := Open(ref, Options{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("credential:keyward-root", Options{}); err == nil {
		t.Error("a credential that everybody can read was taken")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := Open("credential:keyward-root", Options{}); err == nil || !strings.Contains(err.Error(), "systemd-run") {
		t.Errorf("without systemd: %v", err)
	}
}
