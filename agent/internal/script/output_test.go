package script

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestOutput_outcomes(t *testing.T) {
	t.Setenv("https_proxy", "http://user:secret@proxy:1")
	for name, c := range map[string]struct {
		body, want, says string
		mode             os.FileMode
	}{
		"prints":                     {body: "echo 42\n", want: "42\n"},
		"fails and says why":         {body: "echo out of order >&2\nexit 3\n", says: "exit status 3 out of order"},
		"prints too much":            {body: "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done\n", says: "more than 4096 bytes"},
		"overruns its time":          {body: "trap '' TERM\nsleep 1000\n", says: "did not end within"},
		"gets nothing of the agent":  {body: `echo "$https_proxy$KEYWARD_X"` + "\n", want: "\n"},
		"leaves a process behind":    {body: "sleep 1000 &\necho left\n", want: "left\n"},
		"can be changed by others":   {mode: 0o722, says: "chmod go-w"},
		"cannot be executed":         {mode: 0o600, says: "chmod +x"},
		"complains at great length":  {body: "yes | head -c 100000 >&2\nexit 1\n", says: "exit status 1 y"},
		"reads from nothing":         {body: "cat\necho end\n", want: "end\n"},
		"complains and succeeds all": {body: "echo warning >&2\necho ok\n", want: "ok\n"},
	} {
		if c.mode == 0 {
			c.mode = 0o700
		}
		timeout := 30 * time.Second
		if strings.Contains(name, "overruns") {
			timeout = 100 * time.Millisecond
		}
		got, err := Output(t.Context(), timeout, 4096, write(t, c.body, c.mode).Path)
		if (c.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.says) || string(got) != c.want {
			t.Errorf("a program that %s: %q, %v; want %q, %q", name, got, err, c.want, c.says)
		}
	}
	if _, err := Output(t.Context(), time.Second, 10, "/nonexistent/program"); err == nil {
		t.Error("a missing program gives an answer")
	}
}
