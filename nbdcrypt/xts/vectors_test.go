package xts

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

type vector struct {
	Name                  string
	Key                   string
	Tweak                 uint64
	Plaintext, Ciphertext string
}

// checkVector drives every kernel of this processor with one published vector, both ways and in place.
func checkVector(t *testing.T, v vector) {
	t.Helper()
	key, plain, cipher := unhex(t, v.Key), unhex(t, v.Plaintext), unhex(t, v.Ciphertext)
	for _, kernel := range Kernels() {
		c, err := NewWithKernel(kernel, key)
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		got := make([]byte, len(plain))
		c.EncryptSectors(got, plain, len(plain), v.Tweak, 1)
		if !bytes.Equal(got, cipher) {
			t.Errorf("%s, %s: encrypted to %x, want %x", v.Name, kernel, got, cipher)
		}
		copy(got, cipher)
		c.DecryptSectors(got, got, len(got), v.Tweak, 1)
		if !bytes.Equal(got, plain) {
			t.Errorf("%s, %s: decrypted to %x, want %x", v.Name, kernel, got, plain)
		}
		c.Wipe()
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors_publishedOnesAgree(t *testing.T) {
	t.Parallel()
	for file, least := range map[string]int{"ieee1619.json": 5, "wycheproof.json": 30} {
		raw, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Vectors []vector }
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatal(err)
		}
		if len(list.Vectors) < least {
			t.Errorf("%s holds %d vectors, want at least %d", file, len(list.Vectors), least)
		}
		for _, v := range list.Vectors {
			checkVector(t, v)
		}
	}
}

// TestVectors_nistCAVP reads XTSGenAES*.rsp where the Debian package python3-cryptography-vectors puts them.
func TestVectors_nistCAVP(t *testing.T) {
	t.Parallel()
	const folder = "/usr/lib/python3/dist-packages/cryptography_vectors/ciphers/AES/XTS/tweak-dataunitseqno"
	files, _ := filepath.Glob(filepath.Join(folder, "XTSGenAES*.rsp"))
	if len(files) == 0 {
		t.Skip("NIST CAVP vectors are not installed: apt-get install python3-cryptography-vectors")
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		count, fields := 0, map[string]string{}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			name, value, ok := strings.Cut(lines.Text(), " = ")
			if !ok {
				continue
			}
			fields[name] = value
			complete := (name == "CT" && fields["PT"] != "") || (name == "PT" && fields["CT"] != "")
			if !complete {
				continue
			}
			if bits, _ := strconv.Atoi(fields["DataUnitLen"]); bits%128 == 0 {
				tweak, err := strconv.ParseUint(fields["DataUnitSeqNumber"], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				checkVector(t, vector{"CAVP " + fields["COUNT"], fields["Key"], tweak, fields["PT"], fields["CT"]})
				count++
			}
			delete(fields, "PT")
			delete(fields, "CT")
		}
		if count < 100 {
			t.Errorf("%s gave only %d vectors", filepath.Base(file), count)
		}
	}
}
