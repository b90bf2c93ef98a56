package handover

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/keymem"
)

// TestMain lets the test binary play the process that hands over to itself.
func TestMain(m *testing.M) {
	if os.Getenv("KEYWARD_TEST_LIVES") == "" {
		os.Exit(m.Run())
	}
	if err := live(); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

const secret = "a secret of thirty-two bytes !!!"

// manySecrets is as long as the keys of a RAID set, and longer than one place of the vault.
var manySecrets = strings.Repeat(secret, 20)

// live is one of three lives: the first and second hand over, the third reports.
func live() error {
	p, err := Receive()
	if err != nil {
		return err
	}
	if p == nil {
		key, err := keymem.FromBytes([]byte(secret))
		if err != nil {
			return err
		}
		many, err := keymem.FromBytes([]byte(manySecrets))
		if err != nil {
			return err
		}
		last, err := key.Clone()
		if err != nil {
			return err
		}
		f, err := os.Open(os.Getenv("KEYWARD_TEST_LIVES"))
		if err != nil {
			return err
		}
		if _, err := f.Seek(5, 0); err != nil {
			return err
		}
		p = &Parcel{Note: json.RawMessage(`"1"`), Files: []*os.File{f}, Keys: []*keymem.Key{key, many, last}}
		if err := Exec("/nonexistent", nil, nil, *p); err == nil || key.Len() == 0 {
			return fmt.Errorf("handing over to nobody: %v, key of %d bytes", err, key.Len())
		}
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			return fmt.Errorf("after a failure the file would be inherited by children: %v", err)
		}
		return Exec("/proc/self/exe", os.Args, os.Environ(), *p)
	}
	if string(p.Note) == `"1"` {
		p.Note = json.RawMessage(`"2"`)
		return Exec("/proc/self/exe", os.Args, os.Environ(), *p)
	}
	rest := make([]byte, 100)
	n, _ := p.Files[0].Read(rest)
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	vaults := 0
	for _, e := range names {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && (strings.Contains(to, "memfd") || strings.Contains(to, "secretmem")) {
			vaults++
		}
	}
	_, again := os.LookupEnv(variable)
	fmt.Printf("pid %d note %s file %q key %v %s vaults %d variable %v\n", os.Getpid(), p.Note, rest[:n],
		string(p.Keys[0].Bytes()) == secret && string(p.Keys[1].Bytes()) == manySecrets && string(p.Keys[2].Bytes()) == secret, p.Keys[0].Protection(), vaults, again)
	return nil
}

func TestExec_filesKeysAndPIDReachTheNextLife(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("half read"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "KEYWARD_TEST_LIVES="+file)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	want := fmt.Sprintf("pid %d note \"2\" file \"read\" key true ", cmd.Process.Pid)
	if !strings.HasPrefix(out.String(), want) || !strings.HasSuffix(out.String(), "vaults 0 variable false\n") {
		t.Errorf("the third life says %q, want %q", &out, want)
	}
}

func TestVault_isWipedWhenItHasBeenEmptied(t *testing.T) {
	t.Parallel()
	key, err := keymem.FromBytes([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	fd, wipe, err := Parcel{Keys: []*keymem.Key{key}}.vault()
	if err != nil {
		t.Fatal(err)
	}
	defer wipe()
	other, err := mapVault(fd) // sees the pages after they were emptied elsewhere
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(other)
	if !bytes.HasPrefix(other, []byte(secret)) {
		t.Fatal("the key is not in the vault")
	}
	dup, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	got, err := emptyVault(dup, []int{len(secret)})
	if err != nil {
		t.Fatal(err)
	}
	defer got[0].Wipe()
	if !got[0].Equal(key) {
		t.Error("another key came out")
	}
	if !bytes.Equal(other, make([]byte, vaultSize)) {
		t.Error("the key is still in the vault")
	}
}

func TestReceive_refusesWhatIsNotAParcel(t *testing.T) {
	t.Parallel()
	slipOf := func(s string) int {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(fd, []byte(s)); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	me := strconv.Itoa(os.Getpid())
	for name, s := range map[string]string{
		"no JSON":              "{",
		"of another process":   `{"pid":1,"files":[],"keys":[]}`,
		"standard output":      `{"pid":` + me + `,"files":[1],"keys":[]}`,
		"a file that is shut":  `{"pid":` + me + `,"files":[999999],"keys":[]}`,
		"a key without length": `{"pid":` + me + `,"files":[],"keys":[0]}`,
		"a key beyond the end": `{"pid":` + me + `,"files":[],"keys":[100000]}`,
		"keys beyond number":   `{"pid":` + me + `,"files":[],"keys":[` + strings.Repeat("1,", 64) + `1]}`,
	} {
		vault, err := newVault()
		if err != nil {
			t.Fatal(err)
		}
		if p, err := receive(fmt.Sprintf("%d,%d", slipOf(s), vault)); err == nil {
			t.Errorf("%s: accepted %+v", name, p)
		}
	}
	for _, text := range []string{"", "3", "x,y", "1,2", "-1,-1"} {
		if p, err := receive(text); err == nil {
			t.Errorf("%q: accepted %+v", text, p)
		}
	}
	short, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := receive(fmt.Sprintf("%d,%d", slipOf(`{"pid":`+me+`,"files":[],"keys":[1]}`), short)); err == nil {
		t.Errorf("a vault without pages: accepted %+v", p)
	}
	if p, err := Receive(); p != nil || err != nil {
		t.Errorf("without a former life: %v, %v", p, err)
	}
}
