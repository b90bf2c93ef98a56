package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keyward/broker/api"
	"keyward/e2e/lab"
	"keyward/nbdcrypt/keymem/memsearch"
)

// stepFiles copies Go's source tree into the volume and syncs it.
func (s *show) stepFiles(ctx context.Context) error {
	source, err := goSource(ctx)
	if err != nil {
		return err
	}
	started := time.Now()
	files, total, err := lab.CopyTree(source, filepath.Join(s.mount, "src"), 300<<20)
	if err != nil {
		return fmt.Errorf("copy %s into the volume: %w", source, err)
	}
	if err := syncFS(s.mount); err != nil {
		return err
	}
	took := time.Since(started).Seconds()
	s.files = files
	if len(files) < 2000 {
		return fmt.Errorf("the source tree at %s has only %d files", source, len(files))
	}
	say("%d files, %.0f MB, copied and synced: %.0f files/s, %.0f MB/s", len(files), float64(total)/1e6,
		float64(len(files))/took, float64(total)/1e6/took)
	return nil
}

func goSource(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	root := strings.TrimSpace(string(out))
	if err != nil || root == "" {
		root = runtime.GOROOT()
	}
	if _, err := os.Stat(filepath.Join(root, "src", "go.mod")); err != nil {
		return "", fmt.Errorf("find Go's source tree: %w", err)
	}
	return filepath.Join(root, "src"), nil
}

// syncFS returns when everything written to the file system at path is on its disk.
func syncFS(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := unix.Syncfs(int(folder.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// needles are texts of Go's source tree that a reader of the raw disk would find.
var needles = []string{"Copyright 2009 The Go Authors", "package runtime", "func main() {"}

// stepAtRest searches the raw disk for what was copied, exports the key, and asks stock cryptsetup about the volume.
func (s *show) stepAtRest(ctx context.Context) error {
	for _, needle := range needles {
		if found, err := lab.DiskHolds(s.disk, []byte(needle)); err != nil || found {
			return errors.Join(err, fmt.Errorf("the raw disk holds %q in clear: %v", needle, found))
		}
	}
	say("the raw disk holds none of %q", needles)
	if err := s.export(ctx); err != nil {
		return err
	}
	bits := fmt.Sprint(len(s.key) * 8)
	checks := []struct {
		what   string
		args   []string
		refuse bool
	}{
		{"isLuks", []string{"isLuks", "--type", "luks2", s.disk}, false},
		{"luksDump", []string{"luksDump", s.disk}, false},
		{"open --test-passphrase with the exported key", []string{"open", "--test-passphrase", "--volume-key-file", s.keyFile,
			"--key-size", bits, s.disk}, false},
		{"open --test-passphrase with a wrong key", []string{"open", "--test-passphrase", "--volume-key-file", s.wrongKey(),
			"--key-size", bits, s.disk}, true},
	}
	for _, check := range checks {
		out, err := exec.CommandContext(ctx, "cryptsetup", check.args...).CombinedOutput()
		if (err != nil) != check.refuse {
			return fmt.Errorf("cryptsetup %s: %w: %s", check.what, err, out)
		}
		verdict := "accepted"
		if check.refuse {
			verdict = "refused"
		}
		say("cryptsetup %s: %s", check.what, verdict)
	}
	return nil
}

// export takes the device's key out as the Security Administrator and turns it into a key file.
func (s *show) export(ctx context.Context) error {
	const passphrase = "correct horse battery staple"
	var archive bytes.Buffer
	err := s.security.ExportKeys(ctx, api.ExportWrite{DeviceIDs: []string{s.device.ID}, Passphrase: passphrase}, &archive)
	if err != nil {
		return err
	}
	reader, err := zip.NewReader(bytes.NewReader(archive.Bytes()), int64(archive.Len()))
	if err != nil || len(reader.File) != 1 {
		return fmt.Errorf("read the export: %w", err)
	}
	if err := os.CopyFS(filepath.Join(s.dir, "export"), reader); err != nil {
		return err
	}
	exported := filepath.Join(s.dir, "export", reader.File[0].Name)
	passphraseFile := filepath.Join(s.dir, "export", "passphrase")
	s.keyFile = filepath.Join(s.dir, "export", "volume.key")
	if err := os.WriteFile(passphraseFile, []byte(passphrase), 0o600); err != nil {
		return err
	}
	if _, err := s.agent.Run(ctx, "exported-key", exported, "--passphrase-file", passphraseFile, "--out", s.keyFile); err != nil {
		return err
	}
	s.key, err = os.ReadFile(s.keyFile)
	return err
}

// wrongKey is a key file of the right size with one bit changed.
func (s *show) wrongKey() string {
	wrong := bytes.Clone(s.key)
	wrong[0] ^= 1
	path := filepath.Join(s.dir, "export", "wrong.key")
	os.WriteFile(path, wrong, 0o600)
	return path
}

// stepRevoke takes the key away, looks for it in the agent's memory, and gets everything back.
func (s *show) stepRevoke(ctx context.Context) error {
	started := time.Now()
	if _, err := s.approver.Revoke(ctx, s.request, api.Decision{Reason: "the demonstration takes it back"}); err != nil {
		return err
	}
	if err := s.awaitRequest(ctx, api.KeyRevoked); err != nil {
		return err
	}
	if lab.Mounted(s.mount) {
		return errors.New("the status is Revoked but the volume is still mounted")
	}
	if _, err := os.Stat(s.teardown); err != nil {
		return fmt.Errorf("the teardown script did not run: %w", err)
	}
	say("teardown script run, unmounted, Revoked in %.0f ms", time.Since(started).Seconds()*1e3)
	// Either half of an XTS key is a secret by itself.
	for _, half := range [][]byte{s.key[:len(s.key)/2], s.key[len(s.key)/2:]} {
		found, err := memsearch.Search(s.agent.PID(), memsearch.NewPattern(half))
		if err != nil || len(found) > 0 {
			return errors.Join(err, fmt.Errorf("the key is in the agent's memory: %q", found))
		}
	}
	say("the key is nowhere in the agent's memory")
	if _, err := s.agent.Run(ctx, "request", s.device.ID); err != nil {
		return err
	}
	if err := s.approve(ctx, "looked at it again"); err != nil {
		return err
	}
	if err := s.files.Same(filepath.Join(s.mount, "src")); err != nil {
		return err
	}
	say("all %d checksums hold", len(s.files))
	return nil
}
