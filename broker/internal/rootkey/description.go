package rootkey

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"keyward/broker/internal/keystore"
)

// maxDescription bounds the file that describes a root key, in bytes.
const maxDescription = 64 << 10

// defaultTimeout is how long one call to the place that keeps the key may take.
const defaultTimeout = 5 * time.Second

// Description says where a root key is kept that never leaves its place. None of it is secret: tokens and PINs stand in
// files or systemd credentials of their own, named by the members that end in -from.
type Description struct {
	// Provider is transit, pkcs11 or kmip.
	Provider keystore.Provider `yaml:"provider"`
	// ID makes the key's name of something else than its address, so that the address may change: set it at the start and
	// never after.
	ID string `yaml:"id"`
	// Key names the key: of the transit engine, the label in the token, the unique identifier on the KMIP server.
	Key string `yaml:"key"`
	// Timeout bounds one call; 0 means five seconds.
	Timeout time.Duration `yaml:"timeout"`

	// Address is https://HOST:PORT of OpenBao or Vault, or HOST:PORT of a KMIP server.
	Address string `yaml:"address"`
	// CAFile is a PEM file of the authorities that vouch for the server; empty means those of the system.
	CAFile string `yaml:"ca-file"`

	// Mount is the path of the transit engine; empty means transit.
	Mount string `yaml:"mount"`
	// Namespace is the namespace of the engine; empty means none.
	Namespace string `yaml:"namespace"`
	// TokenFrom is where the token for OpenBao or Vault stands.
	TokenFrom string `yaml:"token-from"`

	// Module is the PKCS#11 library; Token the token's label; PINFrom where its user's PIN stands.
	Module  string `yaml:"module"`
	Token   string `yaml:"token"`
	PINFrom string `yaml:"pin-from"`

	// CertFile and KeyFile are PEM files of the client certificate for the KMIP server.
	CertFile string `yaml:"cert-file"`
	KeyFile  string `yaml:"key-file"`
}

// ParseDescription reads a description. A member that is not known, or that belongs to another provider, is refused: a
// misspelt setting must not be silently without effect.
func ParseDescription(data []byte) (Description, error) {
	if len(data) > maxDescription {
		return Description{}, fmt.Errorf("it is longer than %d bytes", maxDescription)
	}
	var d Description
	y := yaml.NewDecoder(bytes.NewReader(data))
	y.KnownFields(true)
	if err := y.Decode(&d); err != nil {
		return Description{}, fmt.Errorf("%s", strings.Join(strings.Fields(err.Error()), " "))
	}
	if err := y.Decode(new(Description)); !errors.Is(err, io.EOF) {
		return Description{}, errors.New("it holds more than one document")
	}
	if d.Timeout == 0 {
		d.Timeout = defaultTimeout
	}
	if d.Mount == "" && d.Provider == keystore.ProviderTransit {
		d.Mount = "transit"
	}
	d.Mount = strings.Trim(d.Mount, "/")
	return d, d.check()
}

func (d Description) check() error {
	transit := map[string]string{"address": d.Address, "token-from": d.TokenFrom}
	token := map[string]string{"module": d.Module, "token": d.Token, "pin-from": d.PINFrom}
	kmip := map[string]string{"address": d.Address, "ca-file": d.CAFile, "cert-file": d.CertFile, "key-file": d.KeyFile}
	var need, never map[string]string
	switch d.Provider {
	case keystore.ProviderTransit:
		need, never = transit, map[string]string{"module": d.Module, "token": d.Token, "pin-from": d.PINFrom, "cert-file": d.CertFile, "key-file": d.KeyFile}
	case keystore.ProviderPKCS11:
		need, never = token, map[string]string{"address": d.Address, "ca-file": d.CAFile, "mount": d.Mount, "namespace": d.Namespace,
			"token-from": d.TokenFrom, "cert-file": d.CertFile, "key-file": d.KeyFile}
	case keystore.ProviderKMIP:
		need, never = kmip, map[string]string{"module": d.Module, "token": d.Token, "pin-from": d.PINFrom, "mount": d.Mount, "namespace": d.Namespace, "token-from": d.TokenFrom}
	default:
		return fmt.Errorf("provider %q is not transit, pkcs11 or kmip", d.Provider)
	}
	if d.Key == "" {
		return errors.New("key is missing: name the key")
	}
	for name, value := range need {
		if value == "" {
			return fmt.Errorf("%s is missing, which provider %s needs", name, d.Provider)
		}
	}
	for name, value := range never {
		if value != "" {
			return fmt.Errorf("%s means nothing to provider %s: remove it", name, d.Provider)
		}
	}
	if d.Timeout < 100*time.Millisecond || d.Timeout > time.Minute {
		return fmt.Errorf("timeout %s is not between 100ms and 1m", d.Timeout)
	}
	if d.Provider == keystore.ProviderTransit {
		return d.checkTransit()
	}
	return nil
}

func (d Description) checkTransit() error {
	u, err := url.Parse(d.Address)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return fmt.Errorf("address %q is not an address such as https://bao.example:8200", d.Address)
	}
	host := u.Hostname()
	if u.Scheme != "https" && !(u.Scheme == "http" && (host == "127.0.0.1" || host == "::1" || host == "localhost")) {
		return fmt.Errorf("address %q is not https: account keys would cross the network in clear", d.Address)
	}
	for _, part := range append(strings.Split(d.Mount, "/"), d.Key) {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/?#% ") {
			return fmt.Errorf("%q is no name in a path of OpenBao or Vault", part)
		}
	}
	return nil
}

// id names the key: eight bytes in hexadecimal, of what finds it and not of the key itself, which nobody sees.
func (d Description) id(parts ...string) string {
	where := d.Address
	if d.ID != "" {
		where = d.ID
	}
	h := sha256.New()
	for _, p := range append([]string{"keyward remote root v1", string(d.Provider), where}, parts...) {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// place keeps a key and wraps with it. It is safe for concurrent use. Its errors wrap keystore.ErrUnreachable or
// keystore.ErrUnwrap.
type place interface {
	// id is the key's name, see Description.id.
	id() string
	encrypt(aad, plain []byte) ([]byte, error)
	decrypt(aad, sealed []byte) ([]byte, error)
	close() error
}

func openRemote(path string, o Options) (keystore.Root, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("opening the root key: %w: name the file that describes it", err)
	}
	d, err := ParseDescription(data)
	if err != nil {
		return nil, fmt.Errorf("opening the root key that %s describes: %w; docs/operations/root-key.md lists the members", path, err)
	}
	d.relativeTo(filepath.Dir(path))
	var p place
	switch d.Provider {
	case keystore.ProviderTransit:
		p, err = newTransit(d)
	case keystore.ProviderPKCS11:
		p, err = newToken(d, o.Create)
	case keystore.ProviderKMIP:
		p, err = newKMIP(d, o.Create)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the root key that %s describes: %w", path, err)
	}
	h := newHeld(p, d.Provider, o.Keep, o.Clock)
	if err := h.Check(); err != nil {
		return nil, errors.Join(fmt.Errorf("trying the root key that %s describes: %w", path, err), p.close())
	}
	return h, nil
}

// relativeTo makes the paths of the description those from its own folder.
func (d *Description) relativeTo(dir string) {
	for _, p := range []*string{&d.CAFile, &d.CertFile, &d.KeyFile, &d.TokenFrom, &d.PINFrom} {
		if *p != "" && !IsCredential(*p) && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}
