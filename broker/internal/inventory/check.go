package inventory

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
)

// Limits on what machines may say, in characters unless said otherwise.
const (
	maxText       = 255
	maxName       = 64
	maxLongText   = 4096
	maxVersion    = 64
	maxCSR        = 16 << 10 // bytes
	maxDevices    = 4096
	maxDeviceSize = 1 << 60 // bytes, 1 EiB
)

var providerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// faults collects what is wrong with which field.
type faults map[string]string

func (f faults) text(field, value string, least, most int) {
	switch n := utf8.RuneCountInString(value); {
	case !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
		f[field] = "is not plain text"
	case n < least:
		f[field] = "is missing"
	case n > most:
		f[field] = fmt.Sprintf("is longer than %d characters", most)
	}
}

func (f faults) instance(provider string, in api.InstanceInfo) {
	if !providerName.MatchString(provider) {
		f["provider"] = "is not a provider's name"
	}
	f.text("instance.identity", in.Identity, 1, maxText)
	f.text("instance.host_name", in.HostName, 1, maxText)
	f.text("instance.location", in.Location, 0, maxText)
	f.text("instance.image_identity", in.ImageIdentity, 1, maxText)
	f.text("instance.image_name", in.ImageName, 0, maxText)
	f.text("instance.agent_version", in.AgentVersion, 0, maxVersion)
}

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return problem.InvalidFields(f)
}

func checkEnrolment(in api.EnrolRequest) error {
	f := faults{}
	f.instance(in.Provider, in.Instance)
	if len(in.CSR) > maxCSR {
		f["csr"] = fmt.Sprintf("is larger than %d bytes", maxCSR)
	}
	return f.err()
}

func checkReport(in api.InventoryReport) error {
	f := faults{}
	f.instance(in.Provider, in.Instance)
	if len(in.Devices) > maxDevices {
		f["devices"] = fmt.Sprintf("are more than %d", maxDevices)
		return f.err()
	}
	seen := make(map[string]bool, len(in.Devices))
	for i, d := range in.Devices {
		field := fmt.Sprintf("devices[%d].", i)
		f.text(field+"identity", d.Identity, 1, maxText)
		f.text(field+"name", d.Name, 1, maxText)
		f.text(field+"information", d.Information, 0, maxLongText)
		f.text(field+"contents", d.Contents, 1, maxText)
		if d.Size < 0 || d.Size > maxDeviceSize {
			f[field+"size"] = "is not a size in bytes"
		}
		if seen[d.Identity] {
			f[field+"identity"] = "appears twice"
		}
		seen[d.Identity] = true
	}
	return f.err()
}

// firstOf is the first text that is not empty, cut to the length of a name.
func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return cut(t, maxName)
		}
	}
	return ""
}

// clip makes text from strangers fit for the audit log.
func clip(text string) string {
	return cut(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return '?'
		}
		return r
	}, text), maxText)
}

func cut(text string, most int) string {
	r := []rune(text)
	if len(r) > most {
		return string(r[:most])
	}
	return text
}
