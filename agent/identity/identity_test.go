package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

// issue makes the answer of a broker to an enrolment with the given key.
func issue(t *testing.T, public any, instance string) api.EnrolResponse {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour)}
	}
	ca := template("CA")
	ca.IsCA, ca.BasicConstraintsValid = true, true
	pemOf := func(c *x509.Certificate, public any) string {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, public, key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return api.EnrolResponse{InstanceID: instance, AccountID: "account", AccountName: "Example", Broker: "broker",
		Certificate: pemOf(template(instance), public), CA: pemOf(ca, key.Public())}
}

func enrolled(t *testing.T) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	s := NewStore(dir)
	key, err := s.Key()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Save(issue(t, key.Public(), "i-1"), "https://broker", "m-1"); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func TestStore_keepsAnEnrolment(t *testing.T) {
	t.Parallel()
	s, dir := enrolled(t)
	id, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	if id.InstanceID != "i-1" || id.AccountID != "account" || id.URL != "https://broker" || id.Grade != GradeKeyFile ||
		id.Certificate.PrivateKey == nil || id.NotAfter().Before(time.Now()) {
		t.Errorf("loaded %+v", id)
	}
	for _, name := range []string{keyFile, enrolmentFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v), want 0600", name, info.Mode().Perm(), err)
		}
	}
	key, err := s.Key()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Save(issue(t, key.Public(), "i-2"), "https://other", "m-2"); err != nil {
		t.Fatal(err)
	}
	if id, err = s.Load(); err != nil || id.InstanceID != "i-2" || id.URL != "https://other" {
		t.Errorf("enrolled again: %+v, %v", id, err)
	}
}

func TestStore_machineThatIsNotEnrolled(t *testing.T) {
	t.Parallel()
	s := NewStore(filepath.Join(t.TempDir(), "none"))
	if _, err := s.Load(); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("error %v, want ErrNotEnrolled", err)
	}
	if _, err := s.Key(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("with a key and no certificate: %v, want ErrNotEnrolled", err)
	}
}

func TestStore_refusesLaxPermissions(t *testing.T) {
	t.Parallel()
	for name, lax := range map[string]func(dir string) error{
		"key readable by the group":      func(dir string) error { return os.Chmod(filepath.Join(dir, keyFile), 0o640) },
		"key readable by all":            func(dir string) error { return os.Chmod(filepath.Join(dir, keyFile), 0o604) },
		"certificate writable by others": func(dir string) error { return os.Chmod(filepath.Join(dir, enrolmentFile), 0o602) },
		"folder writable by the group":   func(dir string) error { return os.Chmod(dir, 0o770) },
	} {
		s, dir := enrolled(t)
		if err := lax(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load(); err == nil || !strings.Contains(err.Error(), "chmod") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestSave_refusesACertificateThatIsNotThisMachines(t *testing.T) {
	t.Parallel()
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(own any, a *api.EnrolResponse){
		"of another key":      func(_ any, a *api.EnrolResponse) { *a = issue(t, other.Public(), "i-1") },
		"of another instance": func(_ any, a *api.EnrolResponse) { a.InstanceID = "i-2" },
		"no certificate":      func(_ any, a *api.EnrolResponse) { a.Certificate = "" },
		"no authority":        func(_ any, a *api.EnrolResponse) { a.CA = "x" },
		"no account":          func(_ any, a *api.EnrolResponse) { a.AccountID = "" },
		"endless chain":       func(_ any, a *api.EnrolResponse) { a.CA = strings.Repeat(a.CA, 9) },
	} {
		s, dir := enrolled(t)
		before, _ := os.ReadFile(filepath.Join(dir, enrolmentFile))
		key, err := s.Key()
		if err != nil {
			t.Fatal(err)
		}
		a := issue(t, key.Public(), "i-1")
		change(key.Public(), &a)
		if _, err := s.Save(a, "https://broker", "m-1"); err == nil {
			t.Errorf("%s: was kept", name)
		}
		if after, _ := os.ReadFile(filepath.Join(dir, enrolmentFile)); string(after) != string(before) {
			t.Errorf("%s: replaced the former enrolment", name)
		}
	}
}

func TestLoad_damagedFilesSayWhatToDo(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{"key": keyFile, "enrolment": enrolmentFile} {
		for _, content := range []string{"", "{", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", strings.Repeat("x", maxFileBytes+1)} {
			s, dir := enrolled(t)
			if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Load(); err == nil {
				t.Errorf("a damaged %s (%.10q) was loaded", name, content)
			}
		}
	}
}

func TestCSR_isSignedByTheKey(t *testing.T) {
	t.Parallel()
	key, err := NewStore(filepath.Join(t.TempDir(), "s")).Key()
	if err != nil {
		t.Fatal(err)
	}
	text, err := CSR(key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil || !key.Public().(*ecdsa.PublicKey).Equal(csr.PublicKey) {
		t.Errorf("certificate request: %v, %v", csr, err)
	}
}
