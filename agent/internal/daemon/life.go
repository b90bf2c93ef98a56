package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"keyward/agent/internal/logbook"
	"keyward/broker/api"
)

const (
	// lifeFile says in the state folder how the newest run of the agent ended; it is there from its start on.
	lifeFile = "life.json"
	// maxLife bounds what is read of it, in bytes.
	maxLife = 4 << 10
	// askSystemd bounds the question whether the machine goes down.
	askSystemd = 2 * time.Second
)

// life records when the machine and its agent start and stop. An end that nobody could record, because the power failed or
// the agent was killed, is told by the next start.
type life struct {
	book     *logbook.Book
	stateDir string
	version  string
	run      api.Run
	now      func() time.Time
	boottime func() time.Duration // since the machine's boot
	log      *slog.Logger
}

// How a run ended.
const (
	endStopped = "stopped in order"
	endDown    = "went down with its machine, in order"
	endNone    = "ended without a word"
	endUpgrade = "went on as another program"
)

// end is what one run leaves to the next.
type end struct {
	BootID string `json:"boot_id"`
	RunID  string `json:"run_id"`
	// How is empty while the run lives.
	How string `json:"how,omitempty"`
}

// start records a boot that no run before this one belonged to, and this run. upgraded says that the former run became
// this one.
func (l life) start(upgraded bool) {
	former, err := l.former()
	if err != nil {
		l.log.Warn("how the agent's former run ended is not known", "error", err)
	}
	how := former.How
	switch {
	case upgraded:
		how = endUpgrade
	case former.RunID == "":
		how = ""
	case how == "":
		how = endNone
	}
	if l.run.BootID != former.BootID {
		detail := map[string]string{"boot": l.run.BootID, "booted_at": l.now().Add(-l.boottime()).UTC().Format(time.RFC3339)}
		if former.BootID != "" {
			detail["former_boot"], detail["former_end"] = former.BootID, endNone
			if how == endDown {
				detail["former_end"] = "shut down in order"
			}
		}
		l.append(api.MachineBooted, detail)
	}
	detail := map[string]string{"run": l.run.ID, "boot": l.run.BootID, "start": fmt.Sprint(l.run.Generation), "version": l.version}
	if how != "" {
		detail["former_run"], detail["former_end"] = former.RunID, how
	}
	l.append(api.AgentStarted, detail)
	l.leave("")
}

// stop records the end of this run, and that of the machine's boot with it where the machine is going down.
func (l life) stop(down bool) {
	how := endStopped
	if down {
		how = endDown
		l.append(api.MachineStopping, map[string]string{"boot": l.run.BootID})
	}
	l.append(api.AgentStopped, map[string]string{"run": l.run.ID, "boot": l.run.BootID, "start": fmt.Sprint(l.run.Generation)})
	l.leave(how)
}

// append must not keep volumes from being served: what cannot be recorded is logged.
func (l life) append(e api.OfflineEvent, detail map[string]string) {
	if err := l.book.Append(e, nil, detail); err != nil {
		l.log.Error("an event of the machine's life is not recorded", "event", string(e), "error", err)
	}
}

func (l life) former() (end, error) {
	var e end
	f, err := os.Open(filepath.Join(l.stateDir, lifeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return e, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLife))
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return end{}, fmt.Errorf("%s is damaged: %w; it is written anew", f.Name(), err)
	}
	return e, nil
}

func (l life) leave(how string) {
	data, err := json.Marshal(end{BootID: l.run.BootID, RunID: l.run.ID, How: how})
	if err == nil {
		err = renameio.WriteFile(filepath.Join(l.stateDir, lifeFile), append(data, '\n'), 0o600)
	}
	if err != nil {
		l.log.Warn("the next start of the agent will not know how this run ended", "error", err)
	}
}

// goingDown asks systemd whether the machine stops or starts anew. Where systemd does not run the machine, nobody says so.
func goingDown(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askSystemd)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output() // it fails for every state but one
	return strings.TrimSpace(string(out)) == "stopping"
}
