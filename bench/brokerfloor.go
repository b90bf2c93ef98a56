package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hpke"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
)

// What bare servers exchange: the public key of a request, and of the floor the encapsulation and the sealed key.
const (
	publicBytes = 1216 // ML-KEM-768 and X25519
	encBytes    = 1120
	sealedBytes = 64 + 16
)

// floorBinding stands for the binding of a delivery, as long as a real one.
var floorBinding = make([]byte, 400)

// serveFloor is a server that does the least that a delivery needs: the handshake with the client's certificate, and with
// kind "seal" the HPKE seal of a volume key. "echo" sends back what comes. It prints its address and its CA.
func serveFloor(kind, clientCA string) error {
	pemCA, err := os.ReadFile(clientCA)
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(pemCA) {
		return fmt.Errorf("%s holds no certificate", clientCA)
	}
	chain, key, ca, err := floorIdentity()
	if err != nil {
		return err
	}
	ln, err := loopback()
	if err != nil {
		return err
	}
	ln = tls.NewListener(ln, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients})
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"address": ln.Addr().String(), "ca": string(ca)}); err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err == nil {
				_ = floorAnswer(conn, kind)
			}
		}()
	}
}

func floorAnswer(conn net.Conn, kind string) error {
	message := make([]byte, publicBytes)
	if _, err := io.ReadFull(conn, message); err != nil {
		return err
	}
	if kind == "seal" {
		kem, kdf, aead := client.DeliverySuite()
		public, err := kem.NewPublicKey(message)
		if err != nil {
			return err
		}
		enc, sender, err := hpke.NewSender(public, kdf, aead, []byte(api.HPKEInfo))
		if err != nil {
			return err
		}
		sealed, err := sender.Seal(floorBinding, make([]byte, 64))
		if err != nil {
			return err
		}
		message = append(enc, sealed...)
	}
	_, err := conn.Write(message)
	return err
}

// openFloor opens what the floor sealed, as a machine opens a delivery.
func openFloor(private hpke.PrivateKey, answer []byte) error {
	_, kdf, aead := client.DeliverySuite()
	recipient, err := hpke.NewRecipient(answer[:encBytes], private, kdf, aead, []byte(api.HPKEInfo))
	if err != nil {
		return err
	}
	_, err = recipient.Open(floorBinding, answer[encBytes:])
	return err
}

// floorIdentity is a server certificate of the kind that brokers have: P-256, signed by a CA that is sent along.
func floorIdentity() (chain [][]byte, key *ecdsa.PrivateKey, ca []byte, err error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench CA"}, NotBefore: now.Add(-time.Hour),
		NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root, err := x509.CreateCertificate(rand.Reader, template, template, caKey.Public(), caKey)
	if err != nil {
		return nil, nil, nil, err
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, nil, err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "bench"}, NotBefore: now.Add(-time.Hour),
		NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, template, key.Public(), caKey)
	return [][]byte{der, root}, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}), err
}
