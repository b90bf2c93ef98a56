package rootkey

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyward/broker/internal/keystore"
	"keyward/broker/internal/rootkey/rootkeytest"
)

func TestKMIP_keepsTheContractOnPyKMIP(t *testing.T) {
	t.Parallel()
	p := rootkeytest.StartPyKMIP(t)
	ref := p.Describe(t, "keyward-root")
	if _, err := Open(ref, Options{}); !errors.Is(err, keystore.ErrUnreachable) || !strings.Contains(err.Error(), "keyward-broker init makes one") {
		t.Fatalf("a server without the key: %v", err)
	}
	made := openRoot(t, ref, Options{Create: true})
	again := openRoot(t, ref, Options{Create: true})
	contract(t, made, again)
	if made.Provider() != keystore.ProviderKMIP {
		t.Errorf("provider %s", made.Provider())
	}
	if other := openRoot(t, p.Describe(t, "another"), Options{Create: true}); other.ID() == made.ID() {
		t.Error("two keys have one name")
	}

	// Another client of the server does not find the key.
	data, err := os.ReadFile(ref)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(p.Dir, "foreign.yaml")
	if err := os.WriteFile(foreign, []byte(strings.ReplaceAll(string(data), "client", "stranger")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(foreign, Options{}); !errors.Is(err, keystore.ErrUnreachable) {
		t.Errorf("another client: %v", err)
	}

	p.Stop()
	if err := made.Check(); !errors.Is(err, keystore.ErrUnreachable) {
		t.Errorf("without the server: %v", err)
	}
}
