package attach

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// powerCut is what suite e2e/vm tells the writer of its power cuts, in the file that KEYWARD_POWERCUT names.
type powerCut struct {
	Disk   string
	Record luks2.Record
	Secret []byte
}

// TestPowerCut_writer is the guest's side of e2e/vm's power cuts, and no test by itself. It waits for a line "go FOLDER
// [new]", attaches the encrypted volume on the disk, mounts it (after making a file system on it, with new), and writes
// into FOLDER until the power goes. It says "@keyward acked KIND N" for what was acknowledged as durable; what it writes is
// checked by checkCut there:
//
//	log     lines "N\n" of 8 digits appended to FOLDER/log, each followed by fdatasync
//	file    FOLDER/file-N, written, fsynced, renamed into place and the folder fsynced: N lines "N\n"
//	block   FOLDER/blocks, block N%32 of 4 KiB overwritten with the 64-bit number N, little-endian, O_DIRECT|O_DSYNC
func TestPowerCut_writer(t *testing.T) {
	name := os.Getenv("KEYWARD_POWERCUT")
	if name == "" {
		t.Skip("is started by e2e/vm")
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var p powerCut
	if err := json.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	tell("ready")
	var order []string
	for in := bufio.NewScanner(os.Stdin); len(order) < 2 || order[0] != "go"; order = strings.Fields(in.Text()) {
		if !in.Scan() { // the start of a line may be lost, which is then sent again
			t.Fatal("no order came")
		}
	}
	tell("going")
	mp := p.mount(t, len(order) > 2)
	tell("mounted")
	dir := filepath.Join(mp, order[1])
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syncDir(mp); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for kind, write := range map[string]func(n int) error{"log": appendTo(t, dir), "file": newFiles(dir), "block": overwrite(t, dir)} {
		writers.Go(func() {
			for n := 1; ; n++ {
				if err := write(n); err != nil {
					t.Errorf("%s %d: %v", kind, n, err)
					return
				}
				tell("acked", kind, n)
			}
		})
	}
	writers.Wait()
}

var told sync.Mutex

// tell speaks to the host.
func tell(words ...any) {
	told.Lock()
	defer told.Unlock()
	fmt.Print("\n@keyward ", fmt.Sprintln(words...))
}

// mount attaches the volume with two connections and mounts it.
func (p powerCut) mount(t *testing.T, fresh bool) string {
	t.Helper()
	fd, err := unix.Open(p.Disk, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// The disk is another one than when this machine was stopped.
	if err := errors.Join(unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0), unix.Close(fd)); err != nil {
		t.Fatal(err)
	}
	dev, err := blockdev.OpenFile(p.Disk, blockdev.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := keymem.FromBytes(p.Secret)
	if err != nil {
		t.Fatal(err)
	}
	vol, err := nbdcrypt.Open(dev, p.Record, key, nbdcrypt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := Attach(context.Background(), vol, Options{Kind: KindNBD, VolumeUUID: p.Record.UUID, Connections: 2})
	if err != nil {
		t.Fatal(err)
	}
	if fresh {
		makeFS(t, "ext4", a.Path())
	}
	const mp = "/mnt"
	if err := unix.Mount(a.Path(), mp, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	return mp
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func appendTo(t *testing.T, dir string) func(int) error {
	f, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syncDir(dir); err != nil {
		t.Fatal(err)
	}
	return func(n int) error {
		if _, err := fmt.Fprintf(f, "%08d\n", n); err != nil {
			return err
		}
		return unix.Fdatasync(int(f.Fd()))
	}
}

func newFiles(dir string) func(int) error {
	return func(n int) error {
		tmp := filepath.Join(dir, "new")
		f, err := os.Create(tmp)
		if err != nil {
			return err
		}
		_, err = f.Write(bytes.Repeat(fmt.Appendf(nil, "%08d\n", n), n))
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		if err := os.Rename(tmp, filepath.Join(dir, fmt.Sprintf("file-%d", n))); err != nil {
			return err
		}
		return syncDir(dir)
	}
}

func overwrite(t *testing.T, dir string) func(int) error {
	name := filepath.Join(dir, "blocks")
	if err := os.WriteFile(name, make([]byte, 32*4096), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_DIRECT|unix.O_DSYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), syncDir(dir)); err != nil {
		t.Fatal(err)
	}
	buf := aligned(t, 4096)
	return func(n int) error {
		for i := 0; i < len(buf); i += 8 {
			binary.LittleEndian.PutUint64(buf[i:], uint64(n))
		}
		_, err := f.WriteAt(buf, int64(n%32)*4096)
		return err
	}
}
