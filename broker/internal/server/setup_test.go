package server

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyward/broker/internal/store/storetest"
)

// A data folder that lost its CA would get a new one, and every machine would be locked out without a word.
func TestInit_makesNoNewIdentityForADatabaseWithAccounts(t *testing.T) {
	t.Parallel()
	c, _ := newConfig(t, storetest.SQLite(t))
	for _, name := range []string{fileCA, fileAudit} {
		path := filepath.Join(c.Data, name)
		kept, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		_, err = Init(context.Background(), c, "", "", "")
		if err == nil || !strings.Contains(err.Error(), "restore") || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("a new %s was made", name)
		}
		if err := os.WriteFile(path, kept, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Init(context.Background(), c, "", "", ""); err != nil {
		t.Errorf("with everything there: %v", err)
	}
}
