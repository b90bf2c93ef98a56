package server

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyward/e2e/lab"
)

func TestTrust_isReadWholeOrRefused(t *testing.T) {
	t.Parallel()
	cloud, err := lab.NewCloud("eu-central-1")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := cloud.WriteCertificate(folder); err != nil {
		t.Fatal(err)
	}
	c, err := clouds(folder)
	if err != nil || len(c.AWS["eu-central-1"]) != 1 {
		t.Fatalf("read %+v, %v", c, err)
	}
	if none, err := clouds(""); err != nil || len(none.AWS) != 0 {
		t.Errorf("no folder: %+v, %v", none, err)
	}
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cloud.Certificate.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if pool, err := tpmRoots(roots); err != nil || pool == nil {
		t.Errorf("roots: %v, %v", pool, err)
	}
	if pool, err := tpmRoots(""); err != nil || pool != nil {
		t.Errorf("no roots: %v, %v", pool, err)
	}
	for name, f := range map[string]func() error{
		"a folder that is not there": func() error { _, err := clouds("/none"); return err },
		"a file that is no region": func() error {
			dir := t.TempDir()
			_ = os.WriteFile(filepath.Join(dir, "frankfurt.pem"), nil, 0o600)
			_, err := clouds(dir)
			return err
		},
		"an empty file": func() error {
			dir := t.TempDir()
			_ = os.WriteFile(filepath.Join(dir, "us-east-1.pem"), nil, 0o600)
			_, err := clouds(dir)
			return err
		},
		"roots that are none": func() error { _, err := tpmRoots("/dev/null"); return err },
		"roots without end":   func() error { _, err := tpmRoots("/dev/zero"); return err },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), "reading") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
