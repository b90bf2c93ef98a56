package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// mountRow is one way to mount under one load. Encrypted says whether the backing image holds ciphertext.
type mountRow struct {
	Bench     string  `json:"bench"`
	Mount     string  `json:"mount"`
	Encrypted bool    `json:"encrypted"`
	Backing   string  `json:"backing"`
	Case      string  `json:"case"`
	FilesS    float64 `json:"files_s"` // 0 for fio, which has one
	MBs       float64 `json:"mb_s"`
}

var mountHeader = []string{"backing", "case", "mount", "encrypted", "files/s", "MB/s"}

func (r mountRow) print(out *report) {
	encrypted := "no"
	if r.Encrypted {
		encrypted = "yes"
	}
	out.row(mountHeader, r, r.Backing, r.Case, r.Mount, encrypted, fmt.Sprintf("%.0f", r.FilesS), fmt.Sprintf("%.0f", r.MBs))
}

// mounted is an ext4 file system, mounted at point, and how to take it down.
type mounted struct {
	name      string
	encrypted bool
	point     string
	undo      []func() error // the last first
}

func (m *mounted) close() error {
	var errs []error
	for i := len(m.undo) - 1; i >= 0; i-- {
		errs = append(errs, m.undo[i]())
	}
	m.undo = nil
	return errors.Join(errs...)
}

// mounters are the ways to mount, ours first. Each has a folder of its own.
var mounters = []struct {
	name  string
	needs []string
	start func(ctx context.Context, m *mounted, dir string) error
}{
	{"keyward", []string{"go", "mkfs.ext4"}, mountKeyward},
	{"nbdfuse", []string{"nbdkit", "nbdfuse", "losetup", "mkfs.ext4"}, mountNBDFuse},
	{"nbdfuse-luks", []string{"nbdkit", "nbdfuse", "qemu-img", "losetup", "mkfs.ext4"}, mountNBDFuseLUKS},
	{"loop", []string{"losetup", "mkfs.ext4"}, mountLoop},
}

// benchMount copies a source tree into each file system and syncs it, reads it back from the disk, and lets fio write and
// verify. Rounds go round among the file systems.
func benchMount(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		o.out.missing("mount", "all", "mounting needs root")
		return nil
	}
	backings := []struct{ name, dir string }{{"tmpfs", "/dev/shm"}, {"disk", "/var/tmp"}}
	rounds, bytes := 5, int64(200<<20)
	if o.quick {
		backings, rounds, bytes = backings[:1], 1, 40<<20
	}
	files, err := sourceTree(ctx, bytes)
	if err != nil {
		return err
	}
	for _, b := range backings {
		if err := benchMounts(ctx, o, b.name, b.dir, rounds, files); err != nil {
			return err
		}
	}
	return nil
}

func benchMounts(ctx context.Context, o options, backing, parent string, rounds int, files []sourceFile) (err error) {
	dir, err := os.MkdirTemp(parent, "keyward-bench-")
	if err != nil {
		return fmt.Errorf("make a folder on %s: %w", backing, err)
	}
	var all []*mounted
	defer func() {
		for _, m := range all {
			err = errors.Join(err, m.close())
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	for _, kind := range mounters {
		if missing := notInstalled(kind.needs); missing != "" {
			o.out.missing("mount", kind.name, missing+" is not installed")
			continue
		}
		m := &mounted{name: kind.name}
		all = append(all, m) // before start, which may stop half-way
		own := filepath.Join(dir, kind.name)
		if err := os.Mkdir(own, 0o700); err != nil {
			return err
		}
		if err := kind.start(ctx, m, own); err != nil {
			return fmt.Errorf("mount %s on %s: %w", kind.name, backing, err)
		}
	}
	results := make([]map[string][]transfer, len(all))
	for range rounds {
		for i, m := range all {
			round, err := m.round(ctx, files)
			if err != nil {
				return fmt.Errorf("%s on %s: %w", m.name, backing, err)
			}
			if results[i] == nil {
				results[i] = map[string][]transfer{}
			}
			for name, t := range round {
				results[i][name] = append(results[i][name], t)
			}
		}
	}
	for _, name := range []string{"copy-in", "read-back", "fio-verify"} {
		for i, m := range all {
			var filesS, mbs []float64
			for _, t := range results[i][name] {
				filesS = append(filesS, float64(t.files)/t.took.Seconds())
				mbs = append(mbs, float64(t.bytes)/1e6/t.took.Seconds())
			}
			mountRow{"mount", m.name, m.encrypted, backing, name, median(filesS), median(mbs)}.print(o.out)
		}
	}
	return nil
}

func notInstalled(programs []string) string {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return p
		}
	}
	return ""
}

// transfer is what one load moved in which time.
type transfer struct {
	files int
	bytes int64
	took  time.Duration
}

// round runs every load once and leaves the file system empty.
func (m *mounted) round(ctx context.Context, files []sourceFile) (map[string]transfer, error) {
	root := filepath.Join(m.point, "tree")
	written, err := copyIn(root, files)
	if err != nil {
		return nil, fmt.Errorf("copy files in: %w", err)
	}
	read, err := readBack(root, files)
	if err != nil {
		return nil, fmt.Errorf("read files back: %w", err)
	}
	if err := os.RemoveAll(root); err != nil {
		return nil, err
	}
	verified, err := fioVerify(ctx, m.point)
	if err != nil {
		return nil, err
	}
	return map[string]transfer{"copy-in": written, "read-back": read, "fio-verify": verified}, nil
}

// fioVerify writes 64 MiB in random order past the page cache, and reads them back with their checksums verified.
func fioVerify(ctx context.Context, point string) (transfer, error) {
	const size = 64 << 20
	started := time.Now()
	out, err := exec.CommandContext(ctx, "fio", "--name=verify", "--directory="+point, "--rw=randwrite", "--bs=16k", "--iodepth=16",
		"--ioengine=libaio", "--direct=1", fmt.Sprintf("--size=%d", size), "--verify=crc32c", "--verify_state_save=0", "--do_verify=1", "--verify_fatal=1",
		"--end_fsync=1", "--unlink=1", "--output-format=terse").CombinedOutput()
	if err != nil {
		return transfer{}, fmt.Errorf("fio with verification: %w: %.400s", err, out)
	}
	return transfer{bytes: 2 * size, took: time.Since(started)}, nil
}
