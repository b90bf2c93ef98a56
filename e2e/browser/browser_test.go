// Package browser drives the console in a real browser: over invented data for every page and role, and over a real
// broker for the way from enrolment to an approved key.
package browser

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	browserlog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

const (
	demoAccount  = "Harbour Clinic"
	demoPassword = "Correct-horse-7"
)

// programs are built once for all tests of the package.
var programs struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if programs.dir != "" {
		os.RemoveAll(programs.dir)
	}
	os.Exit(code)
}

// program builds a command of this module and returns its path.
func program(t *testing.T, name string) string {
	t.Helper()
	programs.once.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "keyward-browser-"); programs.err != nil {
			return
		}
		for binary, pkg := range map[string]string{"demo": "keyward/broker/internal/console/demo", "keyward-broker": "keyward/broker"} {
			out, err := exec.Command("go", "build", "-o", filepath.Join(programs.dir, binary), pkg).CombinedOutput()
			if err != nil {
				programs.err = fmt.Errorf("build %s: %w\n%s", pkg, err, out)
				return
			}
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return filepath.Join(programs.dir, name)
}

// demo starts the console over invented data and returns its address.
func demo(t *testing.T) string {
	t.Helper()
	command := exec.Command(program(t, "demo"))
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		command.Process.Kill()
		command.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the demonstration said nothing: %v", err)
	}
	return strings.Fields(line)[0]
}

// tab is one browser with what it complained about.
type tab struct {
	t   *testing.T
	ctx context.Context
	url string

	mu         sync.Mutex
	complaints []string
}

// open starts a browser with a profile of its own. The test fails when a page violates its content security policy or
// a script throws.
func open(t *testing.T, url string) *tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("needs chromium: apt-get install chromium")
	}
	profile, err := os.MkdirTemp("", "keyward-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(profile), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.IgnoreCertErrors, chromedp.WindowSize(1440, 900),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true),
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	b := &tab{t: t, url: url}
	ctx, cancel := chromedp.NewContext(allocator, chromedp.WithListener(b.hear))
	ctx, timeout := context.WithTimeout(ctx, 8*time.Minute)
	b.ctx = ctx
	t.Cleanup(func() { timeout(); cancel(); stop() })
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, c := range b.complaints {
			t.Errorf("the browser complains: %s", c)
		}
	})
	b.do("start", chromedp.Navigate("about:blank"))
	return b
}

func (b *tab) hear(event any) {
	var complaint string
	switch e := event.(type) {
	case *browserlog.EventEntryAdded:
		// Refused forms answer 4xx on purpose; everything else that Chromium logs as an error is one.
		if e.Entry.Level == "error" && e.Entry.Source != "network" || e.Entry.Source == "security" {
			complaint = string(e.Entry.Source) + ": " + e.Entry.Text
		}
	case *runtime.EventExceptionThrown:
		complaint = "script: " + e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			complaint += " " + e.ExceptionDetails.Exception.Description
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" || e.Type == "warning" {
			complaint = "console." + string(e.Type)
		}
	}
	if complaint == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, complaint)
}

func (b *tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// eval runs an expression in the page.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("evaluate %s: %v", expression, err)
	}
	return value
}

// until waits for an expression to become true. A page that is being left answers with an error; the next one counts.
func (b *tab) until(what, expression string) {
	b.t.Helper()
	var last error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](expression))
		if ok && err == nil {
			return
		}
		last = err
	}
	text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body?.innerText.slice(0, 1500)`))
	b.t.Fatalf("waiting for %s: %v; the page says:\n%s", what, last, text)
}

// visit opens a path of the console.
func (b *tab) visit(path string) {
	b.t.Helper()
	b.do("open "+path, chromedp.Navigate(b.url+path))
	b.until("scripts of "+path, `document.documentElement.classList.contains('scripted')`)
}

// press clicks an element and waits until another page has loaded.
func (b *tab) press(selector string) {
	b.t.Helper()
	eval[bool](b, `window.stale = true`)
	b.do("click "+selector, chromedp.Click(chromedp.CSS(selector)))
	b.until("the page after "+selector, `window.stale === undefined && document.documentElement.classList.contains('scripted')`)
}

func (b *tab) fill(selector, value string) {
	b.t.Helper()
	b.do("fill "+selector, chromedp.SendKeys(chromedp.CSS(selector), value))
}

// logOn logs a user on with the log-on page.
func (b *tab) logOn(account, user, password string) {
	b.t.Helper()
	b.visit("/logon")
	b.fill("#f-account", account)
	b.fill("#f-user", user)
	b.fill("#f-password", password)
	b.press(".logon button.primary")
	b.until("the header", `document.querySelector('.viewer') !== null`)
}

func (b *tab) viewport(width, height int64) {
	b.t.Helper()
	b.do("viewport", chromedp.EmulateViewport(width, height))
}

// theme emulates the system's choice.
func (b *tab) theme(name string) {
	b.t.Helper()
	b.do("theme", func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{
				{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
		return chromedp.Void{}, err
	})
}
