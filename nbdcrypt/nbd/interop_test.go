package nbd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// listen serves o on a Unix socket and returns its path. It is not under t.TempDir, which may be longer than a socket's
// path can be.
func listen(t testing.TB, o Options) (*Server, string) {
	t.Helper()
	srv := newServer(t, o)
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return srv, path
}

func uri(path, export string) string { return "nbd+unix:///" + export + "?socket=" + path }

// need skips a test that lacks a program. The package is what CI installs.
func need(t *testing.T, program, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed (package %s)", program, pkg)
	}
}

// run runs a program that has to succeed and returns its output.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := tryRun(t, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return out
}

func tryRun(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestInterop_nbdinfoLists(t *testing.T) {
	t.Parallel()
	need(t, "nbdinfo", "libnbd-bin")
	_, path := listen(t, Options{Exports: []Export{
		{Name: "data", Description: "the volume of a database", Device: newFullDevice(1 << 20), AllowTrim: true, MultiConn: true, MinBlock: 512},
		{Name: "root", Device: newTestDevice(2 << 20), ReadOnly: true},
	}})
	var got struct {
		Protocol   string
		TLS        bool
		Structured bool
		Exports    []map[string]any
	}
	out := run(t, "nbdinfo", "--list", "--json", uri(path, ""))
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got.Protocol != "newstyle-fixed" || got.TLS || !got.Structured || len(got.Exports) != 2 {
		t.Fatalf("%s", out)
	}
	for i, want := range []map[string]any{
		{"export-name": "data", "description": "the volume of a database", "export-size": 1048576.0, "contexts": []any{"base:allocation"},
			"is_read_only": false, "can_cache": true, "can_df": true, "can_fast_zero": true, "can_flush": true, "can_fua": true,
			"can_multi_conn": true, "can_trim": true, "can_zero": true, "block_size_minimum": 512.0,
			"block_size_preferred": 4096.0, "block_size_maximum": 33554432.0},
		{"export-name": "root", "export-size": 2097152.0, "is_read_only": true, "can_trim": false, "can_zero": false,
			"can_fast_zero": false, "can_multi_conn": false, "can_flush": true, "block_size_minimum": 1.0},
	} {
		for key, value := range want {
			if fmt.Sprint(got.Exports[i][key]) != fmt.Sprint(value) {
				t.Errorf("export %d: %s is %v, want %v", i, key, got.Exports[i][key], value)
			}
		}
	}
}

func TestInterop_nbdinfoMap(t *testing.T) {
	t.Parallel()
	need(t, "nbdinfo", "libnbd-bin")
	dev := newFullDevice(1 << 20)
	if _, err := dev.WriteAt(make([]byte, 65536), 131072); err != nil {
		t.Fatal(err)
	}
	_, path := listen(t, Options{Exports: []Export{{Name: "d", Device: dev}, {Name: "plain", Device: newTestDevice(4096)}}})
	var got []struct {
		Offset, Length int
		Description    string
	}
	out := run(t, "nbdinfo", "--map", "--json", uri(path, "d"))
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if s := fmt.Sprint(got); s != "[{0 131072 hole,zero} {131072 65536 data} {196608 851968 hole,zero}]" {
		t.Errorf("%s", s)
	}
	if out := run(t, "nbdinfo", "--map", uri(path, "plain")); !strings.Contains(out, "data") || strings.Contains(out, "hole") {
		t.Errorf("a device that does not know what is allocated: %s", out)
	}
}

func TestInterop_nbdcopyBothWays(t *testing.T) {
	t.Parallel()
	need(t, "nbdcopy", "libnbd-bin")
	const size = 24 << 20
	from, to := newFullDevice(size), newFullDevice(size)
	for off := 0; off < size; off += 3 << 20 {
		if _, err := from.WriteAt(pattern(1<<20+512, byte(off>>20)), int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	srv, path := listen(t, Options{Exports: []Export{
		{Name: "from", Device: from, MultiConn: true, ReadOnly: true}, {Name: "to", Device: to, MultiConn: true}}})
	run(t, "nbdcopy", "--connections=4", "--requests=64", "--flush", uri(path, "from"), uri(path, "to"))
	mustEqual(t, "the copy", to.content(0, size), from.content(0, size))
	file := filepath.Join(t.TempDir(), "image")
	run(t, "nbdcopy", "--connections=4", uri(path, "to"), file)
	image, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the image", image, from.content(0, size))
	if s := srv.Stats(); s.BufferBytes != 0 || s.InFlight != 0 {
		t.Errorf("left over: %+v", s)
	}
}

func TestInterop_qemuIOPatterns(t *testing.T) {
	t.Parallel()
	need(t, "qemu-io", "qemu-utils")
	for _, mode := range []string{"writeback", "writethrough"} {
		dev := newFullDevice(8 << 20)
		dev.record = true
		_, path := listen(t, Options{Exports: []Export{{Name: "disk", Device: dev, AllowTrim: true, MinBlock: 512}}})
		out := run(t, "qemu-io", "-f", "raw", "-d", "unmap", "-t", mode,
			"-c", "write -P 0xaa 0 64k", "-c", "write -P 0xbb 65536 1536", "-c", "read -P 0xaa 0 64k", "-c", "read -P 0xbb 64k 1536",
			"-c", "flush", "-c", "write -f -P 0xcc 1M 4k", "-c", "read -P 0xcc 1M 4k",
			"-c", "write -z 0 32k", "-c", "read -P 0 0 32k", "-c", "read -P 0xaa 32k 32k",
			"-c", "write -z -u 32k 32k", "-c", "read -P 0 0 64k", "-c", "discard 1M 4k", "-c", "read 1M 4k",
			"-c", "aio_write -P 0xdd 2M 1M", "-c", "aio_write -P 0xee 3M 1M", "-c", "aio_flush",
			"-c", "read -P 0xdd 2M 1M", "-c", "read -P 0xee 3M 1M", "-c", "map", uri(path, "disk"))
		if strings.Contains(out, "failed") {
			t.Errorf("%s:\n%s", mode, out)
		}
		log := dev.log()
		for _, want := range []string{"write 0+65536", "write 1048576+4096", "zero 0+32768", "zero-unmap 32768+32768", "discard 1048576+4096", "sync 0+0"} {
			if !slices.Contains(log, want) {
				t.Errorf("%s: the device did not see %q: %q", mode, want, log)
			}
		}
		// The write with FUA, and every write in writethrough mode, is followed by a Sync.
		at := slices.Index(log, "write 1048576+4096")
		if at < 0 || log[at+1] != "sync 0+0" {
			t.Errorf("%s: no sync after the write with FUA: %q", mode, log)
		}
		if mode == "writethrough" && log[1] != "sync 0+0" {
			t.Errorf("no sync after the first write: %q", log)
		}
	}
}

func TestInterop_qemuImgComparesAndMaps(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "qemu-utils")
	dev := newFullDevice(8 << 20)
	if _, err := dev.WriteAt(pattern(1<<20, 4), 2<<20); err != nil {
		t.Fatal(err)
	}
	_, path := listen(t, Options{Exports: []Export{{Name: "disk", Device: dev}, {Name: "other", Device: newFullDevice(8 << 20)}}})
	run(t, "qemu-img", "convert", "-n", "-m", "8", "-W", "-O", "raw", uri(path, "disk"), uri(path, "other"))
	if out := run(t, "qemu-img", "compare", uri(path, "disk"), uri(path, "other")); !strings.Contains(out, "identical") {
		t.Errorf("%s", out)
	}
	if out := run(t, "qemu-img", "map", "--output=json", uri(path, "disk")); !strings.Contains(out,
		`"start": 2097152, "length": 1048576, "depth": 0, "present": true, "zero": false, "data": true`) {
		t.Errorf("%s", out)
	}
}

func TestInterop_fioVerifies(t *testing.T) {
	t.Parallel()
	need(t, "fio", "fio")
	for _, args := range [][]string{
		{"--rw=randwrite", "--bs=4k", "--iodepth=64"},
		{"--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned", "--iodepth=16"},
		{"--rw=write", "--bs=1M", "--iodepth=8", "--end_fsync=1"},
	} {
		srv, path := listen(t, Options{Exports: []Export{{Name: "disk", Device: newFullDevice(32 << 20), MultiConn: true}}})
		run(t, "fio", append([]string{"--name=v", "--ioengine=nbd", "--uri=" + uri(path, "disk"), "--size=32M",
			"--verify=crc32c", "--verify_fatal=1", "--do_verify=1"}, args...)...)
		if s := srv.Stats(); s.BytesWritten < 31<<20 || s.BytesRead < 31<<20 || s.Errors != 0 {
			t.Errorf("%v: %+v", args, s)
		}
	}
}

// nbdkit in front of our server: its own client, and qemu-io through it.
func TestInterop_nbdkitProxies(t *testing.T) {
	t.Parallel()
	need(t, "nbdkit", "nbdkit")
	need(t, "qemu-io", "qemu-utils")
	dev := newFullDevice(8 << 20)
	_, path := listen(t, Options{Exports: []Export{{Name: "disk", Device: dev, AllowTrim: true, MultiConn: true}}})
	out := run(t, "nbdkit", "-U", "-", "nbd", "uri="+uri(path, "disk"), "shared=true", "--run",
		`qemu-io -f raw -d unmap -c "write -P 0x11 0 1M" -c flush -c "discard 1M 1M" -c "write -z 512k 512k" `+
			`-c "read -P 0x11 0 512k" -c "read -P 0 512k 512k" -c map "$uri" && nbdinfo "$uri"`)
	if strings.Contains(out, "failed") {
		t.Errorf("%s", out)
	}
	mustEqual(t, "the device", dev.content(0, 512<<10), bytes.Repeat([]byte{0x11}, 512<<10))
}

// Bad requests get from us what they get from nbdkit.
func TestInterop_libnbdBadRequestsAsNbdkit(t *testing.T) {
	t.Parallel()
	need(t, "nbdkit", "nbdkit")
	const python = "/usr/bin/python3"
	if out, err := exec.Command(python, "-c", "import nbd").CombinedOutput(); err != nil {
		t.Skipf("python3-libnbd is not installed: %s", out)
	}
	script, err := filepath.Abs("testdata/badrequests.py")
	if err != nil {
		t.Fatal(err)
	}
	srv, path := listen(t, Options{Exports: []Export{{Name: "", Device: newFullDevice(48 << 20), AllowTrim: true}}})
	ours := run(t, python, script, uri(path, ""))
	theirs := run(t, "nbdkit", "-U", "-", "memory", "48M", "--run", python+" "+script+` "$uri"`)
	t.Logf("%s", ours)
	// What nbdkit logs is on the same screen.
	var lines []string
	for line := range strings.Lines(theirs) {
		if !strings.HasPrefix(line, "nbdkit:") {
			lines = append(lines, line)
		}
	}
	theirs = strings.Join(lines, "")
	// nbdkit's maximum is 64 MiB, ours 32 MiB; everything else is the same.
	theirs = strings.Replace(theirs, "read over the maximum OK", "read over the maximum ENOMEM", 1)
	theirs = strings.Replace(theirs, "write over the maximum OK", "write over the maximum ENOMEM", 1)
	want := strings.Split(theirs, "\n")
	for i, line := range strings.Split(ours, "\n") {
		if i >= len(want) || line != want[i] {
			t.Errorf("ours: %q", line)
			if i < len(want) {
				t.Errorf("nbdkit: %q", want[i])
			}
		}
	}
	if s := srv.Stats(); s.Errors < 20 || s.BufferBytes != 0 {
		t.Errorf("%+v", s)
	}
}
