package daemon

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"keyward/broker/api"
)

// generationFile counts this machine's agent starts beside its identity, so that a copy of the one is a copy of the other.
const generationFile = "generation"

// newRun describes this run of the agent and counts it before anybody hears of it. The broker tells two machines with
// one identity apart by it.
func newRun(stateDir string, log *slog.Logger) api.Run {
	id := make([]byte, 16)
	rand.Read(id)
	run := api.Run{ID: hex.EncodeToString(id), BootID: bootID()}
	next, err := countStart(filepath.Join(stateDir, generationFile))
	if err != nil {
		log.Warn("this start of the agent is not counted, so the broker cannot notice an older copy of this machine", "error", err)
		return run
	}
	run.Generation = next
	return run
}

// countStart raises the counter; a file that is gone or damaged starts anew, and the broker notices that too.
func countStart(path string) (int64, error) {
	n := int64(0)
	data, err := os.ReadFile(path)
	switch {
	case err == nil && len(data) <= 32:
		if n, err = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err != nil || n < 0 {
			n = 0
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("read the count of starts: %w", err)
	}
	n++
	if err := renameio.WriteFile(path, []byte(strconv.FormatInt(n, 10)+"\n"), 0o600); err != nil {
		return 0, fmt.Errorf("store the count of starts: %w", err)
	}
	return n, nil
}

// bootID is the kernel's, "" where it has none.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || len(data) > 64 {
		return ""
	}
	return strings.TrimSpace(string(data))
}
