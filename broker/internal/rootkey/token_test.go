//go:build pkcs11

package rootkey

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"keyward/broker/internal/keystore"
)

// softHSM is Debian's software token; the tests make tokens of their own in it.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// tokens is the folder of the tokens of this test binary. The library reads its settings once in a process.
var tokens = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "keyward-softhsm")
	if err != nil {
		return "", err
	}
	config := filepath.Join(dir, "softhsm2.conf")
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		return "", err
	}
	text := "directories.tokendir = " + filepath.Join(dir, "tokens") + "\nobjectstore.backend = file\nlog.level = ERROR\n"
	return dir, errors.Join(os.WriteFile(config, []byte(text), 0o600), os.Setenv("SOFTHSM2_CONF", config))
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := tokens(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// describeToken makes a token and describes a key in it.
func describeToken(t *testing.T, label string) string {
	t.Helper()
	if _, err := os.Stat(softHSM); err != nil {
		t.Skip("softhsm2 is not installed")
	}
	if _, err := tokens(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--pin", "123456", "--so-pin", "87654321").CombinedOutput()
	if err != nil {
		t.Fatalf("making a token: %v: %s", err, out)
	}
	dir := t.TempDir()
	text := fmt.Sprintf("provider: pkcs11\nmodule: %s\ntoken: %s\nkey: keyward-root\npin-from: pin\n", softHSM, label)
	for name, data := range map[string]string{"pin": "123456\n", "token.yaml": text} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "token.yaml")
}

// The tests of tokens run one after another: a library that has read its slots does not see tokens that others make
// meanwhile, in the same process.
func TestToken(t *testing.T) {
	ref, second := describeToken(t, "first"), describeToken(t, "second")
	if _, err := Open(ref, Options{}); !errors.Is(err, keystore.ErrUnreachable) || !strings.Contains(err.Error(), "keyward-broker init makes one") {
		t.Fatalf("a token without a key: %v", err)
	}
	made := openRoot(t, ref, Options{Create: true})
	contract(t, made, openRoot(t, ref, Options{}))
	if made.Provider() != keystore.ProviderPKCS11 {
		t.Errorf("provider %s", made.Provider())
	}
	other := openRoot(t, second, Options{Create: true})
	if other.ID() == made.ID() {
		t.Error("keys of two tokens have one name")
	}
	if again := openRoot(t, ref, Options{Create: true}); again.ID() != made.ID() {
		t.Error("a second key was made")
	}
	wrapped, err := made.Wrap([]byte("row"), keystore.KeyOf([]byte("secret")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Unwrap([]byte("row"), wrapped); !errors.Is(err, keystore.ErrUnwrap) {
		t.Errorf("another token: %v", err)
	}

	t.Run("the key cannot be read", func(t *testing.T) {
		k := made.place.(*token)
		for _, a := range []uint{pkcs11.CKA_VALUE} {
			if got, err := k.ctx.GetAttributeValue(k.session, k.key, []*pkcs11.Attribute{pkcs11.NewAttribute(a, nil)}); err == nil {
				t.Errorf("attribute %#x came out: %d bytes", a, len(got[0].Value))
			}
		}
		got, err := k.ctx.GetAttributeValue(k.session, k.key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, nil),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, nil), pkcs11.NewAttribute(pkcs11.CKA_NEVER_EXTRACTABLE, nil)})
		if err != nil || got[0].Value[0] != 1 || got[1].Value[0] != 0 || got[2].Value[0] != 1 {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("a session that is gone is opened again", func(t *testing.T) {
		k := made.place.(*token)
		if err := k.ctx.CloseSession(k.session); err != nil {
			t.Fatal(err)
		}
		if err := made.Check(); err != nil {
			t.Errorf("after the session was closed: %v", err)
		}
		if got, err := made.Unwrap([]byte("row"), wrapped); err != nil || string(got.Bytes()) != "secret" {
			t.Errorf("%v", err)
		}
	})
	t.Run("an extractable key is refused", func(t *testing.T) {
		k := other.place.(*token)
		_, err := k.ctx.GenerateKey(k.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_LABEL, "weak"), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true), pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(edited(t, second, "key: keyward-root", "key: weak"), Options{}); err == nil || !strings.Contains(err.Error(), "can be extracted") {
			t.Errorf("got %v", err)
		}
	})
	for name, c := range map[string]struct{ old, new, says string }{
		"another label":      {"token: first", "token: third", "label"},
		"another library":    {softHSM, "/usr/lib/none.so", "no PKCS#11 library"},
		"a PIN that is gone": {"pin-from: pin", "pin-from: nothing", "PIN"},
	} {
		if _, err := Open(edited(t, ref, c.old, c.new), Options{}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// edited changes a description.
func edited(t *testing.T, ref, old, new string) string {
	t.Helper()
	data, err := os.ReadFile(ref)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(ref), "edited.yaml")
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), old, new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
