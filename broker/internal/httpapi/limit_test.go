package httpapi

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/internal/tenant"
)

// byHeader admits the machine that a header names.
type byHeader struct{}

func (byHeader) Admit(c *fiber.Ctx, _ Route) (tenant.Principal, error) {
	return tenant.Principal{AccountID: "a", Instance: c.Get("Machine")}, nil
}

// A machine makes 5000 calls at once and 200 a second from then on; more are refused with the time to wait, and other
// machines notice nothing.
func TestMachines_callsAreLimitedForEach(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
	app := NewApp(AppOptions{Logger: logger})
	r := NewRouter(app, "/agent/v1", "test", "1", byHeader{}, logger)
	r.limitMachines(newLimiter(machineBurst, machineInterval, func() time.Time { return now }))
	handle(r, Route{Method: http.MethodGet, Path: "/agent/v1/x", Machine: true, Summary: "Do nothing"},
		func(context.Context, tenant.Principal, *None) (*None, error) { return nil, nil })
	call := func(machine string) *http.Response {
		req := httptest.NewRequest(http.MethodGet, "/agent/v1/x", nil)
		req.Header.Set("Machine", machine)
		res, err := app.Test(req, -1)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res
	}
	calls := func(machine string, most int) int {
		for n := range most {
			if res := call(machine); res.StatusCode == http.StatusTooManyRequests {
				return n
			} else if res.StatusCode >= 300 {
				t.Fatalf("call %d answers %d\n%s", n+1, res.StatusCode, &log)
			}
		}
		return most
	}
	if n := calls("one", 5010); n != 5000 {
		t.Errorf("a machine made %d calls at once, want 5000", n)
	}
	if res := call("one"); res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "1" {
		t.Errorf("one call too many answers %d, retry after %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	if n := calls("two", 10); n != 10 {
		t.Errorf("another machine made %d of 10 calls", n)
	}
	now = now.Add(time.Second)
	if n := calls("one", 210); n != 200 {
		t.Errorf("after a second the machine made %d calls, want 200", n)
	}
	now = now.Add(25 * time.Second)
	if n := calls("one", 5010); n != 5000 {
		t.Errorf("after a rest of 25 seconds the machine made %d calls, want 5000", n)
	}
}
