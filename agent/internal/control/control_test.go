package control

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type echo struct{}

func (echo) Control(_ context.Context, r Request) Answer {
	if r.Op == OpLock {
		return Answer{Error: "cannot lock " + r.Device}
	}
	return Answer{Text: string(r.Op) + " " + r.Device}
}

func serve(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kwc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "run", "control.sock")
	s, err := Listen(path, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { s.Serve(t.Context(), echo{}); close(done) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-done
		if _, err := os.Stat(path); err == nil {
			t.Error("the socket is left")
		}
	})
	return path
}

func TestCall_asksAndGetsOneAnswer(t *testing.T) {
	t.Parallel()
	path := serve(t)
	a, err := Call(t.Context(), path, Request{Op: OpRequest, Device: "data"})
	if err != nil || a.Text != "request data" {
		t.Errorf("answer %+v, %v", a, err)
	}
	if _, err := Call(t.Context(), path, Request{Op: OpLock, Device: "data"}); err == nil || err.Error() != "cannot lock data" {
		t.Errorf("an answer with an error gave %v", err)
	}
}

func TestListen_onlyRootCanEnter(t *testing.T) {
	t.Parallel()
	path := serve(t)
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %v", p, info.Mode().Perm(), err, want)
		}
	}
}

func TestListen_refusesASecondAgentAndReplacesADeadOnesSocket(t *testing.T) {
	t.Parallel()
	path := serve(t)
	if _, err := Listen(path, slog.Default()); !errors.Is(err, ErrRunning) {
		t.Errorf("a second agent: %v, want ErrRunning", err)
	}
	if _, err := Call(t.Context(), path, Request{Op: OpStatus}); err != nil {
		t.Errorf("the refused agent disturbed the first: %v", err)
	}
	dir, err := os.MkdirTemp("", "kwc")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	dead := filepath.Join(dir, "control.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	s, err := Listen(dead, slog.Default())
	if err != nil {
		t.Fatalf("a socket that a killed agent left: %v", err)
	}
	s.Close()
}

func TestServe_badInputGetsAnErrorAndDisturbsNobody(t *testing.T) {
	t.Parallel()
	path := serve(t)
	for name, input := range map[string]string{"no JSON": "hello\n", "too long": strings.Repeat("x", maxLine+10), "half a line": `{"op":`} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, input)
		_ = conn.(*net.UnixConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		line, _ := bufio.NewReader(conn).ReadString('\n')
		if line != "" && !strings.Contains(line, `"error"`) {
			t.Errorf("%s was answered with %q", name, line)
		}
		conn.Close()
	}
	if _, err := Call(t.Context(), path, Request{Op: OpStatus}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestCall_withoutAnAgentSaysHowToStartOne(t *testing.T) {
	t.Parallel()
	_, err := Call(t.Context(), filepath.Join(t.TempDir(), "none.sock"), Request{Op: OpStatus})
	if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "keyward-agent run") {
		t.Errorf("error %v", err)
	}
}
