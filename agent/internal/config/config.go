// Package config reads the agent's configuration: a YAML (or JSON) file, then KEYWARD_AGENT_* environment variables,
// then flags, the later winning. A key that nobody knows stops the start, because a misspelt security setting is a lost one.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"keyward/broker/api"
)

// DefaultPath is where the agent looks for its configuration unless it is told otherwise.
const DefaultPath = "/etc/keyward/agent.yaml"

// Config is everything that a user can set on a machine. What the broker decides (file system, mount point, key size,
// lease) is not here.
type Config struct {
	// Broker is the base URL of the broker's agents' interface; empty means the one the machine enrolled with.
	Broker string `koanf:"broker" yaml:"broker,omitempty"`
	// Proxy is http|https://[user:password@]host:port. Empty means the https_proxy variable, or none.
	Proxy string `koanf:"proxy" yaml:"proxy,omitempty"`
	// Provider names the plug-in that knows this machine and its devices.
	Provider string `koanf:"provider" yaml:"provider,omitempty"`
	Native   Native `koanf:"native" yaml:"native,omitempty"`
	// Location and UserData become facts; rules can ask for them.
	Location string  `koanf:"location" yaml:"location,omitempty"`
	UserData string  `koanf:"user_data" yaml:"user_data,omitempty"`
	Facts    Facts   `koanf:"facts" yaml:"facts,omitempty"`
	Scripts  Scripts `koanf:"scripts" yaml:"scripts,omitempty"`
	// LogLevel is debug, info, warn or error.
	LogLevel   string `koanf:"log_level" yaml:"log_level,omitempty"`
	RuntimeDir string `koanf:"runtime_dir" yaml:"runtime_dir,omitempty"`
	StateDir   string `koanf:"state_dir" yaml:"state_dir,omitempty"`
	// TPM is auto (use the TPM where there is one), require, or off; TPMDevice its device, or the Unix socket of swtpm.
	TPM       string `koanf:"tpm" yaml:"tpm,omitempty"`
	TPMDevice string `koanf:"tpm_device" yaml:"tpm_device,omitempty"`
	// EC2 says whether the instance identity document is shown to the broker: auto (where the firmware is Amazon's), on, or
	// off. EC2Endpoint is the metadata service.
	EC2         string `koanf:"ec2" yaml:"ec2,omitempty"`
	EC2Endpoint string `koanf:"ec2_endpoint" yaml:"ec2_endpoint,omitempty"`
	// Connections of kernel NBD per volume, 1 to 16; 0 lets the agent choose.
	Connections int `koanf:"connections" yaml:"connections,omitempty"`
	// LeaseEnd is what happens to a volume whose lease ends without contact while the broker has never said how it
	// wants keys given up: unmount or suspend.
	LeaseEnd string `koanf:"lease_end" yaml:"lease_end,omitempty"`
	// UnmountGraceSeconds is how long programs may keep a volume busy before it is suspended instead of unmounted.
	UnmountGraceSeconds int `koanf:"unmount_grace_seconds" yaml:"unmount_grace_seconds,omitempty"`
}

// The values of Config.TPM and Config.EC2.
const (
	TPMAuto    = "auto"
	TPMRequire = "require"
	TPMOff     = "off"
	EC2Auto    = "auto"
	EC2On      = "on"
	EC2Off     = "off"
)

// Native configures the provider for plain machines.
type Native struct {
	Images []Image `koanf:"images" yaml:"images,omitempty"`
}

// Image is a raw disk image that is offered as a device.
type Image struct {
	Path string `koanf:"path" yaml:"path"`
}

// Scripts are the user's own programs, run as root.
type Scripts struct {
	// MountComplete runs once all volumes are mounted, Teardown before a volume is unmounted.
	MountComplete string `koanf:"mount_complete" yaml:"mount_complete,omitempty"`
	Teardown      string `koanf:"teardown" yaml:"teardown,omitempty"`
	// TimeoutSeconds bounds the teardown script.
	TimeoutSeconds int `koanf:"timeout_seconds" yaml:"timeout_seconds,omitempty"`
}

// Default is the configuration of a machine that sets nothing.
func Default() Config {
	return Config{
		Provider: "native", LogLevel: "info", RuntimeDir: "/run/keyward-agent", StateDir: "/var/lib/keyward-agent",
		TPM: TPMAuto, TPMDevice: "/dev/tpmrm0", EC2: EC2Auto, EC2Endpoint: "http://169.254.169.254",
		LeaseEnd: string(api.RevokeUnmount), UnmountGraceSeconds: 10, Scripts: Scripts{TimeoutSeconds: 60}, Facts: Facts{RefreshSeconds: 30},
	}
}

// Level is LogLevel as slog knows it.
func (c Config) Level() slog.Level {
	var l slog.Level
	if l.UnmarshalText([]byte(c.LogLevel)) != nil {
		return slog.LevelInfo
	}
	return l
}

// ControlSocket is where a running agent listens for its command line.
func (c Config) ControlSocket() string { return filepath.Join(c.RuntimeDir, "control.sock") }

// Validate refuses what could only fail later, naming the key.
func (c Config) Validate() error {
	var errs []error
	refuse := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	if c.Broker != "" {
		if u, err := url.Parse(c.Broker); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			refuse("broker", "must be https://host[:port]")
		}
	}
	if _, err := ParseProxy(c.Proxy); err != nil {
		refuse("proxy", "%v", err)
	}
	if c.Provider == "" {
		refuse("provider", "must be named, for example native")
	}
	if new(slog.Level).UnmarshalText([]byte(c.LogLevel)) != nil {
		refuse("log_level", "%q is none of debug, info, warn, error", c.LogLevel)
	}
	paths := map[string]string{"runtime_dir": c.RuntimeDir, "state_dir": c.StateDir}
	for i, image := range c.Native.Images {
		paths[fmt.Sprintf("native.images[%d].path", i)] = image.Path
	}
	for key, path := range paths {
		if !filepath.IsAbs(path) {
			refuse(key, "%q must be an absolute path", path)
		}
	}
	for key, path := range map[string]string{"scripts.mount_complete": c.Scripts.MountComplete, "scripts.teardown": c.Scripts.Teardown} {
		if path != "" && !filepath.IsAbs(path) {
			refuse(key, "%q must be an absolute path", path)
		}
	}
	for key, why := range c.Facts.wrong() {
		refuse(key, "%s", why)
	}
	if c.Connections < 0 || c.Connections > 16 {
		refuse("connections", "%d is not between 0 and 16", c.Connections)
	}
	if !slices.Contains([]string{TPMAuto, TPMRequire, TPMOff}, c.TPM) {
		refuse("tpm", "%q is none of auto, require, off", c.TPM)
	}
	if !filepath.IsAbs(c.TPMDevice) {
		refuse("tpm_device", "%q must be an absolute path", c.TPMDevice)
	}
	if !slices.Contains([]string{EC2Auto, EC2On, EC2Off}, c.EC2) {
		refuse("ec2", "%q is none of auto, on, off", c.EC2)
	}
	if u, err := url.Parse(c.EC2Endpoint); err != nil || u.Scheme != "http" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" {
		refuse("ec2_endpoint", "must be http://address")
	}
	if c.LeaseEnd != string(api.RevokeUnmount) && c.LeaseEnd != string(api.RevokeSuspend) {
		refuse("lease_end", "%q is neither unmount nor suspend", c.LeaseEnd)
	}
	if c.Scripts.TimeoutSeconds < 1 || c.Scripts.TimeoutSeconds > 3600 {
		refuse("scripts.timeout_seconds", "%d is not between 1 and 3600", c.Scripts.TimeoutSeconds)
	}
	if c.UnmountGraceSeconds < 0 || c.UnmountGraceSeconds > 3600 {
		refuse("unmount_grace_seconds", "%d is not between 0 and 3600", c.UnmountGraceSeconds)
	}
	return errors.Join(errs...)
}

// ParseProxy reads a proxy setting. It never repeats the setting in an error, because it may hold a password.
func ParseProxy(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("must be http|https://[user:password@]host:port")
	}
	return u, nil
}
