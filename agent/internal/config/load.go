package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/google/renameio/v2"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"
)

// envPrefix opens the name of every environment variable that sets a key; dots become underscores.
const envPrefix = "KEYWARD_AGENT_"

// EnvPath names the configuration file instead of the flag.
const EnvPath = envPrefix + "CONFIG"

const maxConfigBytes = 1 << 20

// Source says where configuration comes from.
type Source struct {
	// Path of the file; a missing file is an error only if Required.
	Path     string
	Required bool
	// Environ is os.Environ() form.
	Environ []string
	// Flags are keys set on the command line, dotted.
	Flags map[string]any
}

// Load reads and validates the configuration.
func Load(s Source) (Config, error) {
	k := koanf.New(".")
	data, err := readFile(s.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !s.Required:
	case err != nil:
		return Config{}, fmt.Errorf("read configuration: %w", err)
	default:
		if err := k.Load(bytesProvider(data), yamlParser{}); err != nil {
			return Config{}, fmt.Errorf("read configuration %s: %w", s.Path, err)
		}
	}
	env, err := fromEnviron(s.Environ)
	if err != nil {
		return Config{}, err
	}
	for _, layer := range []map[string]any{env, s.Flags} {
		for _, key := range slices.Sorted(maps.Keys(layer)) {
			if err := k.Set(key, layer[key]); err != nil {
				return Config{}, fmt.Errorf("set %s: %w", key, err)
			}
		}
	}
	c := Default()
	err = k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		TagName: "koanf", Result: &c, ErrorUnused: true, WeaklyTypedInput: true,
	}})
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", s.Path, err)
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", s.Path, err)
	}
	return c, nil
}

// Save writes the configuration so that only root can read it (a proxy setting may hold a password).
func Save(path string, c Config) error {
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	if err := renameio.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others could change what root runs; run: chmod go-w %s", path, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err == nil && len(data) > maxConfigBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxConfigBytes)
	}
	return data, err
}

// fromEnviron reads KEYWARD_AGENT_* variables. Lists cannot be set this way.
func fromEnviron(environ []string) (map[string]any, error) {
	keys := scalarKeys(reflect.TypeFor[Config](), "")
	out := map[string]any{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		short, ok := strings.CutPrefix(name, envPrefix)
		if !ok || name == EnvPath {
			continue
		}
		key, ok := keys[short]
		if !ok {
			return nil, fmt.Errorf("environment variable %s sets nothing; the known ones are %s with %s", name, envPrefix,
				strings.Join(slices.Sorted(maps.Keys(keys)), ", "))
		}
		out[key] = value
	}
	return out, nil
}

// scalarKeys maps the upper-case form of every key that is not a list to its dotted name.
func scalarKeys(t reflect.Type, prefix string) map[string]string {
	out := map[string]string{}
	for i := range t.NumField() {
		field := t.Field(i)
		key := prefix + field.Tag.Get("koanf")
		switch field.Type.Kind() {
		case reflect.Struct:
			maps.Copy(out, scalarKeys(field.Type, key+"."))
		case reflect.Slice:
		default:
			out[strings.ToUpper(strings.ReplaceAll(key, ".", "_"))] = key
		}
	}
	return out
}

// bytesProvider hands a file's content to koanf.
type bytesProvider []byte

func (b bytesProvider) ReadBytes() ([]byte, error) { return b, nil }

func (b bytesProvider) Read() (map[string]any, error) {
	return nil, errors.New("configuration is read as bytes")
}

// yamlParser reads YAML, of which JSON is a part.
type yamlParser struct{}

func (yamlParser) Unmarshal(data []byte) (map[string]any, error) {
	out := map[string]any{}
	return out, yaml.Unmarshal(data, &out)
}

func (yamlParser) Marshal(m map[string]any) ([]byte, error) { return yaml.Marshal(m) }
