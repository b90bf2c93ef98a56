package server

import (
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"keyward/broker/internal/attest"
)

// maxTrust bounds a file of certificates, bytes.
const maxTrust = 4 << 20

// tpmRoots reads the roots of TPM makers; nil when none are configured.
func tpmRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := readTrust(file)
	if err != nil {
		return nil, fmt.Errorf("reading tpm-roots: %w", err)
	}
	roots, err := attest.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("reading tpm-roots %s: %w; give the makers' certificates in PEM form", file, err)
	}
	pool := x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	return pool, nil
}

// clouds reads the certificates of AWS's regions.
func clouds(folder string) (attest.Clouds, error) {
	c := attest.Clouds{AWS: map[string][]*x509.Certificate{}}
	if folder == "" {
		return c, nil
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return c, fmt.Errorf("reading ec2-certificates: %w", err)
	}
	for _, e := range entries {
		region, isPEM := strings.CutSuffix(e.Name(), ".pem")
		if !isPEM {
			continue
		}
		text, err := readTrust(filepath.Join(folder, e.Name()))
		if err == nil {
			c.AWS[region], err = attest.ParsePins(region, text)
		}
		if err != nil {
			return c, fmt.Errorf("reading ec2-certificates %s: %w; AWS lists the RSA-2048 certificate of each region in its documentation", e.Name(), err)
		}
	}
	return c, nil
}

func readTrust(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTrust+1))
	if err == nil && len(text) > maxTrust {
		err = fmt.Errorf("%s has more than %d bytes", file, maxTrust)
	}
	return text, err
}
