package nbd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pki is a CA, a server certificate for "localhost" and a client certificate, as files where libnbd and qemu look.
type pki struct {
	dir    string
	server *tls.Config
	client *tls.Config
}

func newPKI(t *testing.T) pki {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	issue := func(serial int64, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template.SerialNumber = big.NewInt(serial)
		template.Subject = pkix.Name{CommonName: "nbd test " + template.Subject.CommonName}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	ca, caKey := issue(1, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	server, serverKey := issue(2, &x509.Certificate{DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca, caKey)
	client, clientKey := issue(3, &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, caKey)
	write("ca-cert.pem", "CERTIFICATE", ca.Raw)
	write("client-cert.pem", "CERTIFICATE", client.Raw)
	keyDER, err := x509.MarshalPKCS8PrivateKey(clientKey)
	if err != nil {
		t.Fatal(err)
	}
	write("client-key.pem", "PRIVATE KEY", keyDER)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return pki{dir: dir,
		server: &tls.Config{ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
			Certificates: []tls.Certificate{{Certificate: [][]byte{server.Raw}, PrivateKey: serverKey}}},
		client: &tls.Config{RootCAs: pool, ServerName: "localhost",
			Certificates: []tls.Certificate{{Certificate: [][]byte{client.Raw}, PrivateKey: clientKey}}}}
}

// startTLS upgrades a client after its greeting.
func (c *client) startTLS(config *tls.Config) *client {
	c.t.Helper()
	c.mustAck(c.option(optStartTLS, nil))
	secure := tls.Client(c.conn, config)
	if err := secure.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.conn = secure
	return c
}

func TestTLS_requiredBeforeAnythingElse(t *testing.T) {
	t.Parallel()
	certs := newPKI(t)
	srv := newServer(t, Options{TLS: certs.server, TLSRequired: true, Exports: []Export{{Name: "disk", Device: newTestDevice(1 << 20)}}})
	c := connect(t, srv).hello(clientFixedNewstyle)
	for _, id := range []uint32{optList, optInfo, optGo, optStructuredReply, optSetMetaContext, 99} {
		if got := c.option(id, goData("disk")); got[0].kind != repErrTLSReqd {
			t.Errorf("option %d in clear: reply %#x, want %#x", id, got[0].kind, repErrTLSReqd)
		}
	}
	c.startTLS(certs.client)
	if got := c.option(optStartTLS, nil); got[0].kind != repErrInvalid {
		t.Errorf("TLS inside TLS: reply %#x", got[0].kind)
	}
	c.mustAck(c.option(optGo, goData("disk")))
	c.mustDo(cmdWrite, 0, 0, 300<<10, pattern(300<<10, 1))
	mustEqual(t, "a read", c.mustDo(cmdRead, 0, 0, 300<<10, nil), pattern(300<<10, 1))
	for i := range 30 {
		c.send(cmdRead, 0, uint64(i), uint64(i)*512, 512, nil)
	}
	for range 30 {
		if a := c.receive(512); a.errno != OK {
			t.Errorf("%+v", a)
		} else {
			mustEqual(t, "a read", a.data, pattern(300<<10, 1)[a.cookie*512:][:512])
		}
	}
	c.leave()

	c = connect(t, srv).hello(clientFixedNewstyle)
	c.write(append(optionHeader(optExportName, 4), "disk"...))
	c.readEnd()
	if err := c.wait(); err == nil || !strings.Contains(err.Error(), "nbds://") {
		t.Errorf("EXPORT_NAME in clear ended with %v", err)
	}
}

// What somebody injects before TLS is neither kept nor taken for the client's word.
func TestTLS_forgetsWhatWasSaidInClear(t *testing.T) {
	t.Parallel()
	certs := newPKI(t)
	srv := newServer(t, Options{TLS: certs.server, Exports: []Export{{Name: "disk", Device: newTestDevice(1 << 20)}}})
	c := connect(t, srv).hello(clientFixedNewstyle)
	c.mustAck(c.option(optStructuredReply, nil))
	c.mustAck(c.option(optSetMetaContext, metaData("disk", baseAllocation)))
	c.startTLS(certs.client)
	c.mustAck(c.option(optGo, goData("disk")))
	if a := c.do(cmdBlockStatus, 0, 0, 512, nil); a.errno != EINVAL || a.chunk != 0 {
		t.Errorf("%+v, want EINVAL in a simple reply", a)
	}
	c.leave()

	c = connect(t, srv).hello(clientFixedNewstyle)
	c.write(append(optionHeader(optStartTLS, 0), optionHeader(optList, 0)...))
	c.readEnd()
	if err := c.wait(); err == nil || !strings.Contains(err.Error(), "in clear after STARTTLS") {
		t.Errorf("an injected option: the server ended with %v", err)
	}
}

func TestTLS_clientWithoutCertificateIsRefused(t *testing.T) {
	t.Parallel()
	certs := newPKI(t)
	srv := newServer(t, Options{TLS: certs.server, TLSRequired: true, Exports: []Export{{Device: newTestDevice(1 << 20)}}})
	c := connect(t, srv).hello(clientFixedNewstyle)
	c.mustAck(c.option(optStartTLS, nil))
	_ = tls.Client(c.conn, &tls.Config{RootCAs: certs.client.RootCAs, ServerName: "localhost"}).Handshake()
	if err := c.wait(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the server ended with %v", err)
	}
}

func TestTLS_shutdownDrains(t *testing.T) {
	t.Parallel()
	certs := newPKI(t)
	dev, open := gated(1 << 20)
	srv := newServer(t, Options{TLS: certs.server, Exports: []Export{{Device: dev}}})
	c := connect(t, srv).hello(clientFixedNewstyle).startTLS(certs.client)
	c.mustAck(c.option(optGo, goData("")))
	c.send(cmdRead, 0, 1, 0, 4096, nil)
	dev.holds(t, 1)
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Shutdown(t.Context()) }()
	open()
	if a := c.receive(4096); a.errno != OK {
		t.Errorf("%+v", a)
	}
	c.readEnd()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestInterop_libnbdOverTLS(t *testing.T) {
	t.Parallel()
	need(t, "nbdinfo", "libnbd-bin")
	certs := newPKI(t)
	dev := newFullDevice(8 << 20)
	copy(dev.data, pattern(8<<20, 9))
	clear(dev.hole)
	_, path := listen(t, Options{TLS: certs.server, TLSRequired: true, Exports: []Export{{Name: "disk", Device: dev, MultiConn: true}}})
	secure := "nbds+unix://localhost/disk?socket=" + path + "&tls-certificates=" + certs.dir + "&tls-hostname=localhost"
	out, err := tryRun(t, "nbdinfo", "--json", secure)
	if err != nil && strings.Contains(out, "TLS support") {
		t.Skipf("libnbd was built without TLS: %s", out)
	}
	if err != nil || !strings.Contains(out, `"TLS": true`) {
		t.Fatalf("%v\n%s", err, out)
	}
	image := filepath.Join(t.TempDir(), "image")
	run(t, "nbdcopy", "--connections=2", secure, image)
	got, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the copy", got, pattern(8<<20, 9))
	if out, err := tryRun(t, "nbdinfo", uri(path, "disk")); err == nil {
		t.Errorf("a client in clear was served:\n%s", out)
	}
}

func TestInterop_qemuOverTLS(t *testing.T) {
	t.Parallel()
	need(t, "qemu-io", "qemu-utils")
	certs := newPKI(t)
	dev := newFullDevice(8 << 20)
	_, path := listen(t, Options{TLS: certs.server, TLSRequired: true, Exports: []Export{{Name: "disk", Device: dev}}})
	out := run(t, "qemu-io", "--object", "tls-creds-x509,id=t0,endpoint=client,dir="+certs.dir, "--image-opts",
		"-c", "write -P 0x77 0 1M", "-c", "read -P 0x77 0 1M", "-c", "flush", "-c", "write -z 0 64k", "-c", "read -P 0 0 64k",
		"driver=nbd,server.type=unix,server.path="+path+",export=disk,tls-creds=t0,tls-hostname=localhost")
	if strings.Contains(out, "failed") {
		t.Errorf("%s", out)
	}
}
