// Package server puts the broker together: configuration, identity, store, services, two listeners and the work that
// time does. Run reads from top to bottom as the start-up order.
package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keyward/broker/internal/account"
	"keyward/broker/internal/rootkey"
)

// Config is what a broker is started with.
type Config struct {
	// Data is the folder of the broker's certificate authority, its audit key and, by default, its database.
	Data string `koanf:"data"`
	// RootKey is where the root key is, as rootkey.Open takes it: the file of the key, or of the parameters of one from a
	// passphrase, the description of one that is kept elsewhere, or credential:NAME. A file lies outside Data, so that a
	// copy of the one is worthless without the other.
	RootKey string `koanf:"root-key"`
	// RootPassphraseFrom is a file with the passphrase of the root key, "-" for standard input; empty when RootKey holds
	// the key itself.
	RootPassphraseFrom string `koanf:"root-passphrase-from"`
	// RootKeyNext is a second root key while one takes over from the other; RootNextPassphraseFrom is its passphrase's file.
	RootKeyNext            string `koanf:"root-key-next"`
	RootNextPassphraseFrom string `koanf:"root-next-passphrase-from"`
	// RootKeyKeep is how long account keys that a root key in another place has opened are used while that place does not
	// answer.
	RootKeyKeep time.Duration `koanf:"root-key-keep"`
	// DSN is the database; empty means SQLite in Data.
	DSN string `koanf:"dsn"`
	// PeopleListen and AgentListen are the addresses of the two HTTPS listeners.
	PeopleListen string `koanf:"people-listen"`
	AgentListen  string `koanf:"agent-listen"`
	// MetricsListen is the address of a plain HTTP listener for /metrics; empty means none.
	MetricsListen string `koanf:"metrics-listen"`
	// ServiceURL is the agents' interface as machines reach it; empty means it is made of AgentListen.
	ServiceURL string `koanf:"service-url"`
	// Hosts are further names and addresses in the server certificates.
	Hosts []string `koanf:"hosts"`
	// PeopleCert and PeopleKey are PEM files of a certificate for people's browsers; empty means one of the broker's CA.
	PeopleCert string `koanf:"people-cert"`
	PeopleKey  string `koanf:"people-key"`
	// TrustedProxies are addresses and CIDR prefixes whose X-Forwarded-For is believed.
	TrustedProxies []string `koanf:"trusted-proxies"`
	// PasswordMax is the longest password, 32 to 128 characters.
	PasswordMax int `koanf:"password-max"`
	// TPMRoots is a PEM file of the roots of TPM makers; empty means that endorsement keys are pinned at first sight.
	TPMRoots string `koanf:"tpm-roots"`
	// EC2Certificates is a folder of REGION.pem files: AWS's certificates of instance identity documents (RSA-2048).
	EC2Certificates string `koanf:"ec2-certificates"`
	// MachineCertDays is the life of machines' and images' certificates, 1 to 3650 days. Machines renew theirs.
	MachineCertDays int `koanf:"machine-certificate-days"`
	// LogLevel is debug, info, warn or error; LogFormat text or json.
	LogLevel  string `koanf:"log-level"`
	LogFormat string `koanf:"log-format"`

	// createNext makes the second root key where there is none.
	createNext bool

	// Version is the program's.
	Version string `koanf:"-"`
	// Clock is the time of everything; nil means time.Now.
	Clock func() time.Time `koanf:"-" json:"-"`
	// Logger overrides LogLevel and LogFormat.
	Logger *slog.Logger `koanf:"-" json:"-"`
}

// maxRootKeyKeep is the longest that a broker goes on without its root key.
const maxRootKeyKeep = 7 * 24 * time.Hour

// Defaults are the settings that a broker has without any.
func Defaults() Config {
	return Config{PeopleListen: ":8443", AgentListen: ":8444", PasswordMax: account.DefaultMaxPassword, MachineCertDays: 365,
		RootKeyKeep: rootkey.DefaultKeep, LogLevel: "info", LogFormat: "text"}
}

// complete fills in what follows from other settings and refuses what cannot work.
func (c *Config) complete() error {
	if c.Data == "" || c.RootKey == "" {
		return errors.New("a broker needs a data folder and a root key file; name them with --data and --root-key, and make them with keyward-broker init")
	}
	var err error
	if c.Data, err = filepath.Abs(c.Data); err != nil {
		return err
	}
	for _, ref := range []*string{&c.RootKey, &c.RootKeyNext} {
		if *ref == "" || rootkey.IsCredential(*ref) {
			continue
		}
		if *ref, err = filepath.Abs(*ref); err != nil {
			return err
		}
		if inside(*ref, c.Data) {
			return fmt.Errorf("the root key %s lies in the data folder %s: whoever copies the folder has everything; keep the key in another folder, best on another disk", *ref, c.Data)
		}
	}
	if c.RootKeyKeep < time.Second || c.RootKeyKeep > maxRootKeyKeep {
		return fmt.Errorf("root-key-keep %s is not between 1s and %s", c.RootKeyKeep, maxRootKeyKeep)
	}
	if c.DSN == "" {
		c.DSN = "sqlite:" + filepath.Join(c.Data, "keyward.db")
	}
	if c.ServiceURL == "" {
		c.ServiceURL = "https://" + reachable(c.AgentListen)
	}
	u, err := url.Parse(c.ServiceURL)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("service-url %q is not an address such as https://broker.example:8444", c.ServiceURL)
	}
	c.ServiceURL = "https://" + u.Host
	if (c.PeopleCert == "") != (c.PeopleKey == "") {
		return errors.New("people-cert and people-key go together; name both files or none")
	}
	if c.PasswordMax < account.DefaultMaxPassword || c.PasswordMax > account.MaxMaxPassword {
		return fmt.Errorf("password-max %d is not between %d and %d", c.PasswordMax, account.DefaultMaxPassword, account.MaxMaxPassword)
	}
	if c.MachineCertDays == 0 {
		c.MachineCertDays = Defaults().MachineCertDays
	}
	if c.MachineCertDays < 1 || c.MachineCertDays > 3650 {
		return fmt.Errorf("machine-certificate-days %d is not between 1 and 3650", c.MachineCertDays)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		if c.Logger, err = c.newLogger(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) newLogger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, fmt.Errorf("log-level %q is not debug, info, warn or error", c.LogLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch c.LogFormat {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return nil, fmt.Errorf("log-format %q is not text or json", c.LogFormat)
}

// hosts are the names in the server certificates: how this machine may be called.
func (c *Config) hosts() []string {
	out := append([]string(nil), c.Hosts...)
	if u, err := url.Parse(c.ServiceURL); err == nil {
		out = append(out, u.Hostname())
	}
	for _, listen := range []string{c.PeopleListen, c.AgentListen} {
		if h, _, err := net.SplitHostPort(listen); err == nil && h != "" && !net.ParseIP(h).IsUnspecified() {
			out = append(out, h)
		}
	}
	if h, err := os.Hostname(); err == nil {
		out = append(out, h)
	}
	out = append(out, "localhost", "127.0.0.1", "::1")
	slices.Sort(out[len(c.Hosts):])
	return slices.Compact(out)
}

// reachable turns a listen address into one that a client on this machine can use.
func reachable(listen string) string {
	h, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(h); h == "" || ip != nil && ip.IsUnspecified() {
		if h, err = os.Hostname(); err != nil {
			h = "localhost"
		}
	}
	return net.JoinHostPort(h, port)
}

// inside says whether a path lies in a folder, links resolved as far as they exist.
func inside(path, folder string) bool {
	rel, err := filepath.Rel(resolved(folder), resolved(path))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(resolved(parent), filepath.Base(path))
}
