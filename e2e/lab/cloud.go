package lab

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/smallstep/pkcs7"

	"keyward/broker/api"
)

// Cloud signs the identity of instances as one region of EC2 does, with a key of its own.
type Cloud struct {
	Region      string
	Certificate *x509.Certificate
	key         *rsa.PrivateKey
}

// NewCloud makes a region.
func NewCloud(region string) (*Cloud, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"Amazon Web Services LLC"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Cloud{Region: region, Certificate: cert, key: key}, err
}

// WriteCertificate puts the region's certificate where a broker reads it.
func (c *Cloud) WriteCertificate(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate.Raw})
	return os.WriteFile(filepath.Join(folder, c.Region+".pem"), text, 0o644)
}

// Members are an instance's identity document.
func (c *Cloud) Members(instance string) map[string]any {
	return map[string]any{"accountId": "123456789012", "architecture": "x86_64", "availabilityZone": c.Region + "b", "billingProducts": nil,
		"imageId": "ami-0a1b2c3d4e5f67890", "instanceId": instance, "instanceType": "m6i.large", "pendingTime": "2026-11-21T10:00:00Z",
		"privateIp": "10.0.0.5", "region": c.Region, "version": "2017-09-30"}
}

// Document signs an instance's identity as the metadata service's "rsa2048" does.
func (c *Cloud) Document(instance string) (api.CloudDocument, error) {
	return c.Sign(c.Members(instance), pkcs7.OIDDigestAlgorithmSHA256)
}

// Sign signs any members with any digest.
func (c *Cloud) Sign(members map[string]any, digest asn1.ObjectIdentifier) (api.CloudDocument, error) {
	text, err := json.MarshalIndent(members, "", "  ")
	if err != nil {
		return api.CloudDocument{}, err
	}
	signed, err := pkcs7.NewSignedData(text)
	if err != nil {
		return api.CloudDocument{}, err
	}
	signed.SetDigestAlgorithm(digest)
	if err := signed.AddSigner(c.Certificate, c.key, pkcs7.SignerInfoConfig{}); err != nil {
		return api.CloudDocument{}, err
	}
	der, err := signed.Finish()
	return api.CloudDocument{Kind: api.CloudAWS, Document: der}, err
}

// Metadata plays an instance's metadata service, version 2: a session token is fetched by PUT first.
func (c *Cloud) Metadata(instance string) *Metadata {
	m := &Metadata{}
	const token = "AQAEAExampleSessionToken=="
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, r *http.Request) {
		m.Tokens.Add(1)
		if r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "" || r.Header.Get("X-Forwarded-For") != "" {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		_, _ = w.Write([]byte(token))
	})
	mux.HandleFunc("GET /latest/dynamic/instance-identity/rsa2048", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-aws-ec2-metadata-token") != token {
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		d, err := c.Document(instance)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		text := base64.StdEncoding.EncodeToString(d.Document)
		for len(text) > 64 {
			_, _ = w.Write([]byte(text[:64] + "\n"))
			text = text[64:]
		}
		_, _ = w.Write([]byte(strings.TrimSpace(text)))
	})
	m.Server = httptest.NewServer(mux)
	return m
}

// Metadata is a running metadata service.
type Metadata struct {
	*httptest.Server
	Tokens atomic.Int64 // how many sessions were opened
}
