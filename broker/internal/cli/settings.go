package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/maps"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"keyward/broker/internal/server"
)

// envPrefix starts the environment variables of the settings: KEYWARD_BROKER_ROOT_KEY is root-key.
const envPrefix = "KEYWARD_BROKER_"

// settings come, later ones winning, from defaults, a YAML or JSON file, the environment and flags. Keys are the flags'
// names everywhere. A key that is not known is refused: a misspelt setting must not be silently without effect.
type settings struct {
	version string
	file    string
}

func (s *settings) flags(f *pflag.FlagSet) {
	d := server.Defaults()
	f.StringVar(&s.file, "config", "", "YAML or JSON `file` with settings, by the names of these flags")
	f.String("data", d.Data, "`folder` of the certificate authority, the audit key and the embedded database")
	f.String("root-key", d.RootKey, "the root key: its `file`, outside the data folder; FILE.yaml that says where it is kept; or credential:NAME")
	f.String("root-passphrase-from", "", "`file` with the passphrase of the root key, - for standard input")
	f.String("root-key-next", "", "a second root key, given as root-`key` is, while one takes over from the other")
	f.String("root-next-passphrase-from", "", "`file` with the passphrase of the second root key")
	f.Duration("root-key-keep", d.RootKeyKeep, "how long opened account keys are used while a root key that is kept elsewhere does not answer")
	f.String("dsn", "", "database: sqlite:FILE or postgres://USER@HOST/NAME (default: SQLite in the data folder); give passwords by file or environment")
	f.String("people-listen", d.PeopleListen, "`address` of the console and the people's interface")
	f.String("agent-listen", d.AgentListen, "`address` of the agents' interface")
	f.String("metrics-listen", "", "`address` of a plain HTTP listener for Prometheus, such as 127.0.0.1:9464; none by default")
	f.String("service-url", "", "`URL` of the agents' interface as machines reach it (default: made of agent-listen)")
	f.StringSlice("hosts", nil, "further `names` and addresses in the server certificates")
	f.String("people-cert", "", "PEM `file` of a certificate for browsers (default: one of the broker's own authority)")
	f.String("people-key", "", "PEM `file` of its key")
	f.StringSlice("trusted-proxies", nil, "`addresses` and prefixes whose X-Forwarded-For is believed")
	f.Int("password-max", d.PasswordMax, "longest password, 32 to 128 characters")
	f.String("tpm-roots", "", "PEM `file` of TPM makers' roots; only TPMs that they endorse count then (default: pinned at first sight)")
	f.String("ec2-certificates", "", "`folder` of REGION.pem files with AWS's certificates of instance identity documents (RSA-2048)")
	f.Int("machine-certificate-days", d.MachineCertDays, "life of machines' and images' certificates, 1 to 3650 days")
	f.String("log-level", d.LogLevel, "debug, info, warn or error")
	f.String("log-format", d.LogFormat, "text or json")
}

// load puts the settings together.
func (s *settings) load(f *pflag.FlagSet) (server.Config, error) {
	k := koanf.New("\x00") // no nesting: a dot or a slash in a value's key means nothing
	for _, from := range []func(*pflag.FlagSet) (map[string]any, error){s.fromFile, fromEnvironment, fromFlags} {
		m, err := from(f)
		if err != nil {
			return server.Config{}, usageError{err}
		}
		if err := k.Load(confmap(m), nil); err != nil {
			return server.Config{}, usageError{err}
		}
	}
	c := server.Defaults()
	err := k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: &c, ErrorUnused: true, WeaklyTypedInput: true, TagName: "koanf", DecodeHook: mapstructure.ComposeDecodeHookFunc(mapstructure.StringToSliceHookFunc(","), mapstructure.StringToTimeDurationHookFunc()),
	}})
	if err != nil {
		return server.Config{}, usageError{fmt.Errorf("the settings are refused: %s; keyward-broker serve --help lists them", strings.Join(strings.Fields(err.Error()), " "))}
	}
	c.Version = s.version
	return c, nil
}

// confmap is a koanf provider of settings that are there already.
type confmap map[string]any

func (confmap) ReadBytes() ([]byte, error)      { return nil, errors.New("settings are no bytes") }
func (m confmap) Read() (map[string]any, error) { return maps.Copy(m), nil }

func (s *settings) fromFile(*pflag.FlagSet) (map[string]any, error) {
	file := s.file
	if file == "" {
		file = os.Getenv(envPrefix + "CONFIG")
	}
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the settings: %w", err)
	}
	switch ext := filepath.Ext(file); ext {
	case ".yaml", ".yml", ".json": // JSON is YAML
	default:
		return nil, fmt.Errorf("reading the settings: %s is neither .yaml nor .json", file)
	}
	var m map[string]any
	if err := yaml.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("reading the settings in %s: %w", file, err)
	}
	return m, nil
}

func fromEnvironment(*pflag.FlagSet) (map[string]any, error) {
	m := map[string]any{}
	for _, pair := range os.Environ() {
		name, v, _ := strings.Cut(pair, "=")
		key, ours := strings.CutPrefix(name, envPrefix)
		if !ours || key == "CONFIG" {
			continue
		}
		m[strings.ReplaceAll(strings.ToLower(key), "_", "-")] = v
	}
	return m, nil
}

func fromFlags(f *pflag.FlagSet) (map[string]any, error) {
	m := map[string]any{}
	var err error
	f.Visit(func(flag *pflag.Flag) {
		if !settingFlags[flag.Name] {
			return
		}
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			m[flag.Name] = list.GetSlice()
			return
		}
		m[flag.Name] = flag.Value.String()
	})
	return m, err
}

// settingFlags are the flags that are settings; the others belong to single commands.
var settingFlags = func() map[string]bool {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	(&settings{}).flags(f)
	names := map[string]bool{}
	f.VisitAll(func(flag *pflag.Flag) { names[flag.Name] = flag.Name != "config" })
	return names
}()
