package keymem

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/keymem/memsearch"
)

func randomSecret() (secret []byte, pattern memsearch.Pattern) {
	secret = make([]byte, 32)
	rand.Read(secret)
	return secret, memsearch.NewPattern(secret)
}

func search(t *testing.T, p memsearch.Pattern) []string {
	t.Helper()
	found, err := memsearch.Search(0, p)
	if err != nil {
		t.Skip(err)
	}
	return found
}

func TestWipe_leavesNothingInMemory(t *testing.T) {
	secret, pattern := randomSecret()
	if len(search(t, pattern)) == 0 {
		t.Fatal("the search does not find a secret that is there")
	}
	k, err := FromBytes(secret)
	if err != nil {
		t.Fatal(err)
	}
	found := search(t, pattern)
	if k.Protection() == MemfdSecret && len(found) > 0 {
		t.Errorf("memfd_secret memory is readable through /proc: %s", found)
	}
	k.Wipe()
	if found := search(t, pattern); len(found) > 0 {
		t.Errorf("found after Wipe in: %s", found)
	}
}

func TestAllocate_fallsBackToLockedMemory(t *testing.T) {
	secret, pattern := randomSecret()
	base, err := unix.MmapPtr(-1, 0, nil, 4096, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.MunmapPtr(base, 4096)
	protection, err := mapLocked(base, 4096)
	if err != nil {
		t.Fatal(err)
	}
	pages := unsafe.Slice((*byte)(base), 4096)
	copy(pages, secret)
	clear(secret)
	if len(search(t, pattern)) != 1 {
		t.Error("the secret is not exactly where it was put")
	}
	flags := vmFlags(t, uintptr(base))
	if !strings.Contains(flags, " dd") {
		t.Errorf("mapping is in core dumps: VmFlags %s", flags)
	}
	if protection == Mlock && !strings.Contains(flags, " lo") {
		t.Errorf("mapping is not locked: VmFlags %s", flags)
	}
	clear(pages)
}

// vmFlags are the kernel's flags of the mapping that starts at addr (proc(5), smaps: "dd" no dump, "lo" locked).
func vmFlags(t *testing.T, addr uintptr) string {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skipf("no smaps: %v", err)
	}
	_, rest, ok := strings.Cut(string(smaps), fmt.Sprintf("%x-", addr))
	if !ok {
		t.Fatal("mapping not found in smaps")
	}
	_, rest, _ = strings.Cut(rest, "VmFlags:")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

func TestKey_useAfterWipeFaultsInsteadOfEncryptingWithZeroes(t *testing.T) {
	if os.Getenv("KEYMEM_FAULT") == "1" {
		k, err := New(32)
		if err != nil {
			t.Fatal(err)
		}
		stale := k.Bytes()
		k.Wipe()
		fmt.Println("read", stale[0])
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), "KEYMEM_FAULT=1", "GOTRACEBACK=none")
	out, err := cmd.CombinedOutput()
	if err == nil || strings.Contains(string(out), "read 0") {
		t.Errorf("a stale slice could be read: %v %s", err, out)
	}
}
