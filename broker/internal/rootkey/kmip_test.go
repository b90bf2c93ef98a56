package rootkey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"keyward/broker/internal/keystore"
)

// pykmip is a PyKMIP server in a process of its own.
type pykmip struct {
	dir, address string
	cmd          *exec.Cmd
}

func startPyKMIP(t *testing.T) *pykmip {
	t.Helper()
	// Debian's Python, not another one that comes first in PATH.
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import kmip").Run(); err != nil {
		t.Skip("python3-pykmip is not installed")
	}
	p := &pykmip{dir: t.TempDir()}
	writeCertificates(t, p.dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = ln.Addr().String()
	_, port, _ := net.SplitHostPort(p.address)
	ln.Close()
	if err := os.Mkdir(filepath.Join(p.dir, "policy"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("DIR", p.dir, "PORT", port).Replace("[server]\nhostname=127.0.0.1\nport=PORT\ncertificate_path=DIR/server.pem\nkey_path=DIR/server.key\n" +
		"ca_path=DIR/ca.pem\nauth_suite=TLS1.2\npolicy_path=DIR/policy\nenable_tls_client_auth=True\nlogging_level=ERROR\ndatabase_path=DIR/kmip.db\n" +
		"tls_cipher_suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\n")
	if err := os.WriteFile(filepath.Join(p.dir, "server.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(python, "-c", "from kmip.services.server import server; server.main()", "-f", filepath.Join(p.dir, "server.conf"), "-l", filepath.Join(p.dir, "server.log"))
	p.cmd.Dir = p.dir
	// It starts children of its own: they end with its group, and a file has no reader who would wait for them.
	out, err := os.Create(filepath.Join(p.dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("tcp", p.address); err == nil {
			conn.Close()
			return p
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(out.Name())
			t.Fatalf("PyKMIP does not listen: %s", said)
		}
	}
}

func (p *pykmip) stop() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	p.cmd.Wait()
}

// describe describes a key; lines come behind.
func (p *pykmip) describe(t *testing.T, key string) string {
	t.Helper()
	path := filepath.Join(p.dir, key+".yaml")
	text := fmt.Sprintf("provider: kmip\naddress: %s\nkey: %s\nca-file: ca.pem\ncert-file: client.pem\nkey-file: client.key\n", p.address, key)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// writeCertificates makes an authority, a server's certificate and two clients'; PyKMIP takes a client by the common name of
// a certificate that is for client authentication.
func writeCertificates(t *testing.T, dir string) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caKey := key()
	issue := func(serial int64, name string, template *x509.Certificate) {
		k := key()
		signer := caKey
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(serial), ca.NotBefore, ca.NotAfter
		if template.IsCA {
			k = caKey
		}
		der, err := x509.CreateCertificate(rand.Reader, template, ca, k.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
			if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	issue(1, "ca", ca)
	issue(2, "server", &x509.Certificate{Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	for i, name := range []string{"client", "stranger"} {
		issue(int64(3+i), name, &x509.Certificate{Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	}
}

func TestKMIP_keepsTheContractOnPyKMIP(t *testing.T) {
	t.Parallel()
	p := startPyKMIP(t)
	ref := p.describe(t, "keyward-root")
	if _, err := Open(ref, Options{}); !errors.Is(err, keystore.ErrUnreachable) || !strings.Contains(err.Error(), "keyward-broker init makes one") {
		t.Fatalf("a server without the key: %v", err)
	}
	made := openRoot(t, ref, Options{Create: true})
	again := openRoot(t, ref, Options{Create: true})
	contract(t, made, again)
	if made.Provider() != keystore.ProviderKMIP {
		t.Errorf("provider %s", made.Provider())
	}
	if other := openRoot(t, p.describe(t, "another"), Options{Create: true}); other.ID() == made.ID() {
		t.Error("two keys have one name")
	}

	// Another client of the server does not find the key.
	data, err := os.ReadFile(ref)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(p.dir, "foreign.yaml")
	if err := os.WriteFile(foreign, []byte(strings.ReplaceAll(string(data), "client", "stranger")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(foreign, Options{}); !errors.Is(err, keystore.ErrUnreachable) {
		t.Errorf("another client: %v", err)
	}

	p.stop()
	if err := made.Check(); !errors.Is(err, keystore.ErrUnreachable) {
		t.Errorf("without the server: %v", err)
	}
}
