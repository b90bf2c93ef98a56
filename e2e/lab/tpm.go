package lab

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// ErrNoTPM is returned where swtpm is not installed.
var ErrNoTPM = errors.New("needs swtpm; install swtpm")

// TPM is a TPM 2.0 in software, with a seed of its own.
type TPM struct {
	Socket  string
	command *exec.Cmd
}

// StartTPM makes a TPM, or switches one on again, whose state lives in dir. The socket's path must be short.
func StartTPM(ctx context.Context, dir string) (*TPM, error) {
	program, err := exec.LookPath("swtpm")
	if err != nil {
		return nil, ErrNoTPM
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	t := &TPM{Socket: filepath.Join(dir, "tpm.sock")}
	t.command = exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+t.Socket,
		"--flags", "not-need-init,startup-clear")
	log, err := os.OpenFile(filepath.Join(dir, "swtpm.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	t.command.Stderr = log
	if err := t.command.Start(); err != nil {
		return nil, fmt.Errorf("start swtpm: %w", err)
	}
	err = Eventually(ctx, 10*time.Second, func() error {
		return t.do(func(t transport.TPM) error {
			_, err := tpm2.GetRandom{BytesRequested: 4}.Execute(t)
			return err
		})
	})
	if err != nil {
		t.Stop()
		return nil, fmt.Errorf("start swtpm: %w", err)
	}
	return t, nil
}

// Stop switches it off.
func (t *TPM) Stop() {
	_ = t.command.Process.Kill()
	_ = t.command.Wait()
	_ = os.Remove(t.Socket)
}

func (t *TPM) do(f func(transport.TPM) error) error {
	c, err := net.DialTimeout("unix", t.Socket, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(transport.FromReadWriter(c))
}

// Extend changes a PCR as a boot that measured something else would.
func (t *TPM) Extend(pcr int, digest [32]byte) error {
	return t.do(func(t transport.TPM) error {
		_, err := tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}}}.Execute(t)
		return err
	})
}

// Maker issues endorsement certificates, as the makers of TPMs do.
type Maker struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// NewMaker makes a maker's authority.
func NewMaker(name string) (*Maker, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Maker{key: key, cert: cert}, err
}

// Root is the maker's root certificate.
func (m *Maker) Root() *x509.Certificate { return m.cert }

// Endorse writes a certificate of the TPM's P-256 endorsement key where makers put it. It has, as theirs have, an empty
// subject and a critical alternative name that crypto/x509 does not read.
func (m *Maker) Endorse(t *TPM) error {
	return t.do(func(t transport.TPM) error {
		ek, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.ECCEKTemplate)}.Execute(t)
		if err != nil {
			return err
		}
		defer tpm2.FlushContext{FlushHandle: ek.ObjectHandle}.Execute(t)
		area, err := ek.OutPublic.Contents()
		if err != nil {
			return err
		}
		public, err := tpm2.Pub(*area)
		if err != nil {
			return err
		}
		der, err := m.certificate(public)
		if err != nil {
			return err
		}
		return writeNV(t, 0x01c0000a, der)
	})
}

func (m *Maker) certificate(public any) ([]byte, error) {
	if k, ok := public.(*ecdh.PublicKey); ok {
		return nil, fmt.Errorf("unexpected key %T", k)
	}
	model, err := asn1.Marshal(pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: "id:53575450"}}}) // TPM maker
	if err != nil {
		return nil, err
	}
	name, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: model}})
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageKeyAgreement,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: name}}}, m.cert, public, m.key)
}

func writeNV(t transport.TPM, index tpm2.TPMHandle, data []byte) error {
	area := tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)) + 16,
		Attributes: tpm2.TPMANV{OwnerWrite: true, AuthRead: true, OwnerRead: true, NoDA: true}}
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(area)}).Execute(t); err != nil {
		return err
	}
	padded := append(append([]byte(nil), data...), make([]byte, 16)...) // as some makers do
	for at := 0; at < len(padded); at += 512 {
		public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
		if err != nil {
			return err
		}
		part := padded[at:min(at+512, len(padded))]
		if _, err := (tpm2.NVWrite{AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: part}, Offset: uint16(at)}).Execute(t); err != nil {
			return err
		}
	}
	return nil
}
