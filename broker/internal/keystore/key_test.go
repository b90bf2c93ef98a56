package keystore

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestKey_isNeverPrinted(t *testing.T) {
	t.Parallel()
	secret := "MySecretVolumeKeyMySecretVolume!"
	k := KeyOf([]byte(secret))
	type holder struct {
		Exported Key
		hidden   Key
	}
	shown := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t"} {
		shown[verb] = fmt.Sprintf(verb, k)
		shown["&"+verb] = fmt.Sprintf(verb, &k)
		shown["struct "+verb] = fmt.Sprintf(verb, holder{k, k})
		shown["&struct "+verb] = fmt.Sprintf(verb, &holder{k, k})
		shown["slice "+verb] = fmt.Sprintf(verb, []Key{k})
		shown["map "+verb] = fmt.Sprintf(verb, map[string]any{"k": holder{k, k}})
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "key", k, "holder", holder{k, k})
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "key", k, "holder", holder{k, k})
	shown["slog"] = out.String()
	for how, text := range shown {
		for _, leak := range []string{secret, "MySecret", fmt.Sprintf("%x", secret)[:16], fmt.Sprintf("%X", secret)[:16], "77 121 83"} {
			if strings.Contains(text, leak) {
				t.Errorf("%s shows the key: %s", how, text)
			}
		}
	}
	if fmt.Sprint(k) != "REDACTED" {
		t.Errorf("%v", k)
	}
}

func TestKey_isNeverEncoded(t *testing.T) {
	t.Parallel()
	k := KeyOf([]byte("secret"))
	if b, err := json.Marshal(map[string]any{"k": k}); err == nil {
		t.Errorf("JSON: %s", b)
	}
	if b, err := xml.Marshal(struct{ K Key }{k}); err == nil {
		t.Errorf("XML: %s", b)
	}
	if err := gob.NewEncoder(&bytes.Buffer{}).Encode(struct{ K Key }{k}); err == nil {
		t.Error("gob")
	}
}

func TestKey_wipeReachesEveryCopy(t *testing.T) {
	t.Parallel()
	b := []byte("secret")
	k := KeyOf(b)
	copied := k
	k.Wipe()
	if !bytes.Equal(b, make([]byte, 6)) || !bytes.Equal(copied.Bytes(), make([]byte, 6)) {
		t.Errorf("left %q", b)
	}
	Key{}.Wipe()
}
