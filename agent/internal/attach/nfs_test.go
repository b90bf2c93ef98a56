package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt"
)

// nfsServer is the kernel's NFS server, told what rpc.mountd would tell it, and seen over the loopback interface.
func nfsServer(t *testing.T, export string) {
	t.Helper()
	const control = "/proc/fs/nfsd"
	if os.Getenv("KEYWARD_VM") == "" { // it changes settings of the whole machine
		t.Skip("needs the virtual machine of e2e/vm")
	}
	if err := unix.Mount("nfsd", control, "nfsd", 0, ""); err != nil {
		t.Skipf("needs a kernel with nfsd: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(control, 0) })
	setLoopback(t, true)
	tell := func(file, text string) {
		t.Helper()
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatalf("tell %s %q: %v", file, text, err)
		}
	}
	if err := os.MkdirAll("/var/lib/nfs/v4recovery", 0o700); err != nil {
		t.Fatal(err)
	}
	tell(control+"/versions", "-2 -3 +4 +4.1 +4.2\n")
	tell(control+"/nfsv4leasetime", "10\n")
	tell(control+"/nfsv4gracetime", "10\n")
	tell(control+"/threads", "4\n")
	t.Cleanup(func() { tell(control+"/threads", "0\n") })
	// The caches that the server asks rpc.mountd to fill (net/sunrpc/cache.c): who asks, what the root is, what may be done.
	const forEver = 2147483647
	// NFSEXP_INSECURE_PORT, NFSEXP_NOSUBTREECHECK and NFSEXP_FSID of linux/nfsd/export.h; root stays root.
	const flags = 0x2 | 0x400 | 0x2000
	tell("/proc/net/rpc/auth.unix.ip/channel", fmt.Sprintf("nfsd 127.0.0.1 %d loopback\n", forEver))
	tell("/proc/net/rpc/nfsd.fh/channel", fmt.Sprintf("loopback 1 \\x00000000 %d %s\n", forEver, export))
	tell("/proc/net/rpc/nfsd.export/channel", fmt.Sprintf("loopback %s %d %d 65534 65534 0\n", export, forEver, flags))
	tell(control+"/v4_end_grace", "Y\n")
}

// setLoopback plugs the loopback interface in or pulls it.
func setLoopback(t *testing.T, up bool) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		t.Fatal(err)
	}
	flags := ifr.Uint16() &^ unix.IFF_UP
	if up {
		flags |= unix.IFF_UP
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatal(err)
	}
}

// "Volume on an NFS mount through FUSE or NBD; server unplugged and back": programs wait, and lose nothing.
func TestAttach_volumeOnNFSWhoseServerGoesAway(t *testing.T) {
	needNBD(t)
	exported := t.TempDir()
	nfsServer(t, exported)
	nfs := t.TempDir()
	if err := unix.Mount("127.0.0.1:/", nfs, "nfs4", 0, "vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1,proto=tcp,hard,timeo=10"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(nfs, 0); err != nil {
			t.Errorf("unmount %s: %v", nfs, err)
		}
	})
	for _, kind := range []string{KindNBD, KindFUSE} {
		t.Run(kind, func(t *testing.T) {
			said := followKernelLog(t)
			e := newEncryptedAt(t, filepath.Join(nfs, kind+".img"), sizeOf("ext4"))
			vol := e.open(t, nbdcrypt.Options{})
			o := Options{VolumeUUID: e.rec.UUID, Connections: 2, Timeout: time.Second, DeadConnTimeout: 2 * time.Second, RuntimeDir: t.TempDir()}
			var a Attachment
			if kind == KindNBD {
				a = attachNBDForTest(t, vol, o)
			} else {
				a = attachForTest(t, vol, o)
			}
			makeFS(t, "ext4", a.Path())
			mp := mountFS(t, "ext4", a.Path(), "", 0)
			sums := fill(t, mp, 30, 200<<10)
			load := fio(t, mp, 9*time.Second)
			time.Sleep(time.Second)
			load.running()
			setLoopback(t, false)
			time.Sleep(5 * time.Second) // longer than the kernel would wait for connections
			load.running()
			setLoopback(t, true)
			load.wait()
			verify(t, mp, sums)
			unmount(t, mp)
			checkFS(t, "ext4", a.Path())
			said.never(ioErrors...)
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			if err := vol.Close(); err != nil {
				t.Fatal(err)
			}
			// The server's own file holds it all, whatever the client has cached.
			e.image = filepath.Join(exported, kind+".img")
			again := e.open(t, nbdcrypt.Options{ReadOnly: true})
			b := attachNBDForTest(t, again, Options{VolumeUUID: e.rec.UUID, RuntimeDir: t.TempDir(), ReadOnly: true})
			mp = mountFS(t, "ext4", b.Path(), "", unix.MS_RDONLY)
			verify(t, mp, sums)
			unmount(t, mp)
		})
	}
}
