package facts

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"keyward/broker/api"
)

// startClamd runs the real daemon on a folder of databases until the test or the returned function ends it.
func startClamd(t *testing.T, databases string) (socket string, stop func()) {
	t.Helper()
	folder := t.TempDir()
	socket = filepath.Join(folder, "s")
	configuration := filepath.Join(folder, "clamd.conf")
	text := fmt.Sprintf("LocalSocket %s\nDatabaseDirectory %s\nForeground yes\n", socket, databases)
	if err := os.WriteFile(configuration, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	daemon := exec.Command("clamd", "--config-file="+configuration)
	daemon.Stdout, daemon.Stderr = &said, &said
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = daemon.Process.Kill()
			<-ended
		}
	}
	t.Cleanup(stop)
	for start := time.Now(); time.Since(start) < 2*time.Minute; time.Sleep(50 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("clamd ended (%v):\n%s", err, said.Bytes())
		default:
		}
		if _, err := clamdVersion(t.Context(), socket); err == nil {
			return socket, stop
		}
	}
	t.Fatal("clamd does not answer")
	return "", nil
}

// dailyDatabase is a database as an administrator makes one: unsigned, of one signature, with a version and a time.
func dailyDatabase(t *testing.T, version int, made time.Time) []byte {
	t.Helper()
	head := fmt.Sprintf("ClamAV-VDB:%s:%d:1:90:X:X:keyward:%d", made.UTC().Format("02 Jan 2006 15-04 -0700"), version, made.Unix())
	signatures := []byte("Test.Daily:0:*:6b6579776172642d6461696c79\n")
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range []struct {
		name string
		data []byte
	}{{"COPYING", []byte("none\n")}, {"daily.info", fmt.Appendf(nil, "%s\ndaily.ndb:%d:%x\n", head, len(signatures), sha256.Sum256(signatures))}, {"daily.ndb", signatures}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.data)), Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(fmt.Appendf(nil, "%-512s", head), archive.Bytes()...)
}

func TestClamd_theRealOne(t *testing.T) {
	if _, err := exec.LookPath("clamd"); err != nil {
		t.Skipf("needs clamd (Debian's clamav-daemon): %v", err)
	}
	databases := t.TempDir()
	if err := os.WriteFile(filepath.Join(databases, "local.ndb"), []byte("Test.Local:0:*:6b6579776172642d74657374\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ask := func(socket string) api.Evidence {
		return Collect(context.Background(), Sources{Root: "/", Configured: Configured{ClamdSocket: socket}}, "")
	}
	// With a signature of one's own and nothing official, there is an engine, but no pattern version to be proud of.
	socket, stop := startClamd(t, databases)
	e := ask(socket)
	if f := of(t, e, api.FactSecuritySoftware, ""); !slices.Contains(f.Values, api.ProductClamAV) {
		t.Errorf("%+v", f)
	}
	engine := of(t, e, api.FactAVEngine, api.ProductClamAV)
	if len(engine.Values) != 1 || !isPlainVersion(engine.Values[0]) || engine.Source != "clamd VERSION" {
		t.Errorf("%+v", engine)
	}
	if f := of(t, e, api.FactAVPattern, api.ProductClamAV); len(f.Values) != 0 || f.Missing == "" {
		t.Errorf("%+v", f)
	}
	stop()
	if f := of(t, ask(socket), api.FactSecurityState, api.ProductClamAV); !slices.Equal(f.Values, []string{stopped}) {
		t.Errorf("after its end: %+v", f)
	}

	made := time.Now().Add(-50 * time.Hour).Truncate(time.Second)
	if err := os.WriteFile(filepath.Join(databases, "daily.cud"), dailyDatabase(t, 27400, made), 0o644); err != nil {
		t.Fatal(err)
	}
	socket, _ = startClamd(t, databases)
	e = ask(socket)
	for name, want := range map[api.FactName]string{api.FactSecurityState: running, api.FactAVPattern: "27400",
		api.FactAVPatternDate: made.UTC().Format(time.RFC3339), api.FactAVEngine: engine.Values[0]} {
		if f := of(t, e, name, api.ProductClamAV); !slices.Equal(f.Values, []string{want}) {
			t.Errorf("%s is %q (%s), want %s", name, f.Values, f.Missing, want)
		}
	}
}
