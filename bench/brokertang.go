package main

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// jwk is the part of a JSON Web Key (RFC 7517) that Tang uses.
type jwk struct {
	Alg    string   `json:"alg,omitempty"`
	Crv    string   `json:"crv"`
	KeyOps []string `json:"key_ops,omitempty"`
	Kty    string   `json:"kty"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
}

// thumbprint is that of RFC 7638.
func (k jwk) thumbprint() string {
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":%q,"kty":%q,"x":%q,"y":%q}`, k.Crv, k.Kty, k.X, k.Y))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

const tangFolder = "/usr/libexec"

// startTang runs Debian's tangd as its systemd socket does: a process for each connection. It speaks plain HTTP and knows
// neither clients nor policies; the exchange is its own (McCallum-Relyea on P-521).
func (s *brokerSite) startTang(ctx context.Context) error {
	for _, program := range []string{tangFolder + "/tangd", tangFolder + "/tangd-keygen", "socat"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not installed", program)
		}
	}
	keys := filepath.Join(s.dir, "tang")
	if err := os.Mkdir(keys, 0o700); err != nil {
		return err
	}
	if _, err := run(ctx, tangFolder+"/tangd-keygen", keys); err != nil {
		return err
	}
	ln, err := loopback()
	if err != nil {
		return err
	}
	address := ln.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	ln.Close()
	command := exec.CommandContext(ctx, "socat", "TCP-LISTEN:"+port+",bind=127.0.0.1,fork,reuseaddr,backlog=1024", "EXEC:"+tangFolder+"/tangd "+keys)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := command.Start(); err != nil {
		return err
	}
	s.undo = append(s.undo, func() error {
		syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		command.Wait()
		return nil
	})
	var exchangeKey jwk
	for range 100 {
		if exchangeKey, err = tangKey(address); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	s.all = append(s.all, &contender{name: "tang", serves: "exchange in clear", machines: slices.Repeat(s.brokers[0].machines, 2),
		pids: []int{command.Process.Pid}, call: askTang(address, exchangeKey.thumbprint())})
	return nil
}

// tangKey fetches what Tang advertises and returns the key of the exchange.
func tangKey(address string) (jwk, error) {
	res, err := http.Get("http://" + address + "/adv")
	if err != nil {
		return jwk{}, err
	}
	defer res.Body.Close()
	var signed struct {
		Payload string `json:"payload"`
	}
	if err := json.NewDecoder(res.Body).Decode(&signed); err != nil {
		return jwk{}, fmt.Errorf("read what Tang advertises: %w", err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(signed.Payload)
	if err != nil {
		return jwk{}, err
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(payload, &set); err != nil {
		return jwk{}, err
	}
	for _, k := range set.Keys {
		if slices.Contains(k.KeyOps, "deriveKey") {
			return k, nil
		}
	}
	return jwk{}, errors.New("Tang advertises no key for the exchange")
}

func askTang(address, key string) caller {
	return func(ctx context.Context, _ *fleetMachine) error {
		private, err := ecdh.P521().GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		point := private.PublicKey().Bytes()[1:]
		half := len(point) / 2
		body, err := json.Marshal(jwk{Alg: "ECMR", Crv: "P-521", Kty: "EC", X: base64.RawURLEncoding.EncodeToString(point[:half]),
			Y: base64.RawURLEncoding.EncodeToString(point[half:])})
		if err != nil {
			return err
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "POST /rec/%s HTTP/1.1\r\nHost: tang\r\nContent-Type: application/jwk+json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", key, len(body), body); err != nil {
			return err
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("Tang: %s: %s", res.Status, answer)
		}
		return err
	}
}
