package unlock

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"keyward/broker/client"
	"keyward/e2e/lab"
)

// The operator's manual names every command, setting and metric that the program has.
func TestManual_namesWhatTheBrokerHas(t *testing.T) {
	needs(t)
	t.Parallel()
	kinds[0].ready(t)
	raw, err := os.ReadFile("../../docs/operations/broker.md")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(raw)
	help, err := exec.CommandContext(t.Context(), program("keyward-broker"), "serve", "--help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range regexp.MustCompile(`--[a-z0-9-]+`).FindAllString(string(help), -1) {
		if flag != "--help" && !strings.Contains(manual, "`"+flag+"`") {
			t.Errorf("the manual does not name %s", flag)
		}
	}
	help, err = exec.CommandContext(t.Context(), program("keyward-broker"), "--help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile(`(?m)^  ([a-z]+) {2,}`).FindAllStringSubmatch(string(help), -1)
	if len(commands) < 6 {
		t.Fatalf("found only %v in %s", commands, help)
	}
	for _, c := range commands {
		if c[1] != "help" && c[1] != "completion" && !strings.Contains(manual, "| `"+c[1]) {
			t.Errorf("the manual does not name the command %s", c[1])
		}
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metrics := listener.Addr().String()
	listener.Close()
	s, err := kinds[0].start(t.Context(), lab.BrokerOptions{Settings: []string{"--metrics-listen", metrics}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(t) })
	answer, err := (&http.Client{Timeout: 10 * time.Second}).Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?m)^# HELP (keyward_[a-z_]+)`).FindAllStringSubmatch(string(text), -1)
	if len(names) == 0 {
		t.Errorf("no metric of ours in %s", text)
	}
	for _, name := range names {
		if !strings.Contains(manual, "`"+name[1]+"`") {
			t.Errorf("the manual does not name the metric %s", name[1])
		}
	}
	people, err := client.NewPeople(s.broker.URL, s.broker.CA)
	if err != nil {
		t.Fatal(err)
	}
	defer people.Close()
	for _, path := range []string{"/healthz", "/readyz"} {
		if err := people.Do(t.Context(), http.MethodGet, path, nil, nil); err != nil || !strings.Contains(manual, "`"+path+"`") {
			t.Errorf("%s: %v, or the manual does not name it", path, err)
		}
	}
}
