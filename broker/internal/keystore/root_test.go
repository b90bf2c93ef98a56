package keystore

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func testRoot(t testing.TB, seed byte) Root {
	t.Helper()
	r, err := newMemoryRoot(KeyOf(bytes.Repeat([]byte{seed}, 32)), ProviderFile)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRootFile_opensAsItWasCreated(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "root.key")
	made, err := CreateRootFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != 32 {
		t.Fatalf("%v, %v", info, err)
	}
	opened, err := OpenRootFile(path)
	if err != nil || opened.ID() != made.ID() || len(made.ID()) != 16 {
		t.Fatalf("%v: %s and %s", err, opened.ID(), made.ID())
	}
	wrapped, err := WrapSecret(made, "CA key", KeyOf([]byte("private")))
	if err != nil {
		t.Fatal(err)
	}
	got, err := UnwrapSecret(opened, "CA key", wrapped)
	if err != nil || string(got.Bytes()) != "private" {
		t.Fatalf("%q, %v", got.Bytes(), err)
	}
	if _, err := UnwrapSecret(opened, "audit key", wrapped); !errors.Is(err, ErrUnwrap) {
		t.Errorf("a secret of another purpose opened: %v", err)
	}
}

func TestRootFile_neverOverwritesAKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "root.key")
	if _, err := CreateRootFile(path); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateRootFile(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	if _, err := CreatePassphraseRoot(path, "a long enough passphrase"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Error("the key was changed")
	}
}

func TestRootFile_refusesWhatIsNotSafe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, mode os.FileMode, n int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Repeat([]byte{7}, n), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // past the umask
			t.Fatal(err)
		}
		return path
	}
	zero := filepath.Join(dir, "zero")
	if err := os.WriteFile(zero, make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, says string }{
		{"group may read", write("group", 0o640, 32), "chmod 0600"},
		{"others may read", write("others", 0o604, 32), "chmod 0600"},
		{"group may write", write("writable", 0o620, 32), "chmod 0600"},
		{"short", write("short", 0o600, 31), "31 bytes"},
		{"empty", write("empty", 0o600, 0), "0 bytes"},
		{"long", write("long", 0o600, 1<<20), "33 bytes"},
		{"all zeroes", zero, "zeroes"},
		{"a folder", dir, ""},
		{"a FIFO", fifo, "regular"},
		{"missing", filepath.Join(dir, "none"), "no such file"},
	} {
		if _, err := OpenRootFile(c.path); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := OpenRootFile(write("good", 0o400, 32)); err != nil {
		t.Errorf("a read-only key is refused: %v", err)
	}
}

func TestRootFile_ofAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("giving a file away needs root")
	}
	path := filepath.Join(t.TempDir(), "root.key")
	if _, err := CreateRootFile(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRootFile(path); err == nil || !strings.Contains(err.Error(), "user 12345") {
		t.Errorf("got %v", err)
	}
}

func TestPassphraseRoot_needsFileAndPassphrase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "root.json")
	made, err := CreatePassphraseRoot(path, "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenPassphraseRoot(path, "correct horse battery")
	if err != nil || opened.ID() != made.ID() {
		t.Fatalf("%v", err)
	}
	if _, err := OpenPassphraseRoot(path, "correct horse batterz"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("another passphrase: %v", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("correct horse")) {
		t.Error("the passphrase is in the file")
	}
	second, err := CreatePassphraseRoot(path+"2", "correct horse battery")
	if err != nil || second.ID() == made.ID() {
		t.Errorf("the same passphrase made the same key twice (%v)", err)
	}
	if _, err := CreatePassphraseRoot(path+"3", "short"); err == nil {
		t.Error("a short passphrase was taken")
	}
	if _, err := os.Stat(path + "3"); err == nil {
		t.Error("a refused passphrase left a file")
	}
}

func TestPassphraseFile_parametersAreBounded(t *testing.T) {
	t.Parallel()
	good := `{"format":"keyward-root-passphrase-v1","kdf":"argon2id","time":3,"memory_kib":65536,"threads":4,"salt":"AAAAAAAAAAAAAAAAAAAAAA==","key_id":"x"}`
	if _, err := parsePassphraseFile([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{`"memory_kib":65536`, `"memory_kib":4294967295`}, {`"memory_kib":65536`, `"memory_kib":8`}, {`"time":3`, `"time":0`},
		{`"time":3`, `"time":4000000000`}, {`"threads":4`, `"threads":0`}, {`"threads":4`, `"threads":256`}, {`argon2id`, `argon2i`},
		{`-v1`, `-v2`}, {`AAAAAAAAAAAAAAAAAAAAAA==`, `AAAA`}, {`"time"`, `"times"`}, {`{`, `[`}, {`"x"}`, `"` + strings.Repeat("x", maxPassphraseFile) + `"}`},
	} {
		if _, err := parsePassphraseFile([]byte(strings.Replace(good, c[0], c[1], 1))); err == nil {
			t.Errorf("%s for %s was accepted", c[1][:min(len(c[1]), 40)], c[0])
		}
	}
}

func FuzzPassphraseFile(f *testing.F) {
	f.Add([]byte(`{"format":"keyward-root-passphrase-v1","kdf":"argon2id","time":3,"memory_kib":65536,"threads":4,"salt":"AAAAAAAAAAAAAAAAAAAAAA==","key_id":"x"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePassphraseFile(data)
		if err == nil && (p.MemoryKiB > maxArgonMemory || p.MemoryKiB < minArgonMemory || p.Time > maxArgonTime || p.Time == 0 || len(p.Salt) < saltBytes || p.Threads == 0) {
			t.Fatalf("accepted %+v", p)
		}
	})
}
