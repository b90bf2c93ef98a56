package imds

import (
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

func TestDocument_isFetchedInASession(t *testing.T) {
	t.Parallel()
	cloud, err := lab.NewCloud("eu-central-1")
	if err != nil {
		t.Fatal(err)
	}
	service := cloud.Metadata("i-0123456789abcdef0")
	defer service.Close()
	d, err := New(service.URL + "/").Document(t.Context())
	if err != nil || d.Kind != api.CloudAWS || len(d.Document) < 500 {
		t.Fatalf("document %+v, %v", d, err)
	}
	if service.Tokens.Load() != 1 {
		t.Errorf("%d sessions", service.Tokens.Load())
	}
	if _, err := x509.ParseCertificate(d.Document); err == nil {
		t.Error("the document is a bare certificate")
	}
}

func TestDocument_whatIsNoMetadataServiceIsRefused(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"version 1 only": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		},
		"without end":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) },
		"no base64":        func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"an empty answer":  func(http.ResponseWriter, *http.Request) {},
		"base64 of a page": nil,
	} {
		if answer == nil {
			continue
		}
		s := httptest.NewServer(answer)
		if d, err := New(s.URL).Document(t.Context()); err == nil {
			t.Errorf("%s: %+v", name, d)
		}
		s.Close()
	}
	if _, err := New("http://127.0.0.1:1").Document(t.Context()); err == nil || !strings.Contains(err.Error(), "metadata service") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestOnEC2_readsTheFirmwareOnly(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]map[string]bool{
		"class/dmi/id/sys_vendor": {"Amazon EC2\n": true, "QEMU\n": false},
		"hypervisor/uuid":         {"ec2e1916-9099-7caf-fd21-012345abcdef\n": true, "45e12aec-dcd1-b213-94ed-012345abcdef\n": false},
	} {
		for text, on := range want {
			sys := t.TempDir()
			if err := os.MkdirAll(filepath.Dir(filepath.Join(sys, file)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(sys, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if OnEC2(sys) != on {
				t.Errorf("%s %q: %v", file, text, !on)
			}
		}
	}
	if OnEC2(t.TempDir()) {
		t.Error("a machine without firmware data is on EC2")
	}
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(base64.StdEncoding.EncodeToString([]byte("x"))))
	f.Add([]byte("\n\t "))
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, b []byte) {
		body = b
		if d, err := New(s.URL).Document(t.Context()); err == nil && len(d.Document) > len(b) {
			t.Errorf("%d bytes of %d", len(d.Document), len(b))
		}
	})
}
