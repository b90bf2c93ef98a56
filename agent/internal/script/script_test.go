package script

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, body string, mode os.FileMode) Script {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return Script{Name: "teardown", Path: path, Timeout: 30 * time.Second, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func TestRun_outcomes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body string
		mode os.FileMode
		says string // "" for success
	}{
		"succeeds":                         {"exit 0\n", 0o700, ""},
		"fails":                            {"exit 3\n", 0o700, "exit status 3"},
		"gets its environment":             {`test "$KEYWARD_DEVICE" = data` + "\n", 0o700, ""},
		"is not executable":                {"", 0o600, "chmod +x"},
		"others can change it":             {"", 0o722, "chmod go-w"},
		"leaves a daemon that holds stdio": {"sleep 1 &\n", 0o700, ""},
	} {
		err := write(t, c.body, c.mode).Run(t.Context(), "KEYWARD_DEVICE=data")
		if (c.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("a script that %s: %v, want %q", name, err, c.says)
		}
	}
	if err := (Script{}).Run(t.Context()); err != nil {
		t.Errorf("no script: %v", err)
	}
	missing := Script{Name: "teardown", Path: filepath.Join(t.TempDir(), "none"), Timeout: time.Second}
	if err := missing.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a missing script: %v", err)
	}
}

func TestRun_overrunningScriptIsEndedWithItsChildren(t *testing.T) {
	t.Parallel()
	s := write(t, "trap '' TERM\nsleep 1000\n", 0o700)
	s.Timeout = 50 * time.Millisecond
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "was killed") {
			t.Errorf("error %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("a script that ignores SIGTERM holds the agent up")
	}
}
