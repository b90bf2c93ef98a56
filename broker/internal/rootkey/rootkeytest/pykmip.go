package rootkeytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
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
)

// python is Debian's, not another one that comes first in PATH.
const python = "/usr/bin/python3"

// PyKMIP is a KMIP server in a process of its own.
type PyKMIP struct {
	// Dir has its configuration, its database and the certificates.
	Dir     string
	address string
	cmd     *exec.Cmd
}

// StartPyKMIP starts a server with an empty database; it ends with the test. Where PyKMIP is not installed the test is skipped.
func StartPyKMIP(t testing.TB) *PyKMIP {
	t.Helper()
	if err := exec.Command(python, "-c", "import kmip").Run(); err != nil {
		t.Skip("python3-pykmip is not installed")
	}
	p := &PyKMIP{Dir: t.TempDir()}
	writeCertificates(t, p.Dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = ln.Addr().String()
	_, port, _ := net.SplitHostPort(p.address)
	ln.Close()
	if err := os.Mkdir(filepath.Join(p.Dir, "policy"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("DIR", p.Dir, "PORT", port).Replace("[server]\nhostname=127.0.0.1\nport=PORT\ncertificate_path=DIR/server.pem\nkey_path=DIR/server.key\n" +
		"ca_path=DIR/ca.pem\nauth_suite=TLS1.2\npolicy_path=DIR/policy\nenable_tls_client_auth=True\nlogging_level=ERROR\ndatabase_path=DIR/kmip.db\n" +
		"tls_cipher_suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\n")
	if err := os.WriteFile(filepath.Join(p.Dir, "server.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	p.Start(t)
	return p
}

// Start runs it, also again after Stop: with the keys that it had, and at the same address.
func (p *PyKMIP) Start(t testing.TB) {
	t.Helper()
	p.cmd = exec.Command(python, "-c", "from kmip.services.server import server; server.main()", "-f", filepath.Join(p.Dir, "server.conf"), "-l", filepath.Join(p.Dir, "server.log"))
	p.cmd.Dir = p.Dir
	// It starts children of its own: they end with its group, and a file has no reader who would wait for them.
	out, err := os.Create(filepath.Join(p.Dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("tcp", p.address); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(out.Name())
			t.Fatalf("PyKMIP does not listen: %s", said)
		}
	}
}

// Stop ends it at once, as when its machine fails.
func (p *PyKMIP) Stop() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	p.cmd.Wait()
	p.cmd = nil
}

// Describe writes the description of a key and returns its path.
func (p *PyKMIP) Describe(t testing.TB, key string) string {
	t.Helper()
	path := filepath.Join(p.Dir, key+".yaml")
	text := fmt.Sprintf("provider: kmip\naddress: %s\nkey: %s\nca-file: ca.pem\ncert-file: client.pem\nkey-file: client.key\n", p.address, key)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// writeCertificates makes an authority, a server's certificate and two clients'; PyKMIP takes a client by the common name of
// a certificate that is for client authentication.
func writeCertificates(t testing.TB, dir string) {
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
