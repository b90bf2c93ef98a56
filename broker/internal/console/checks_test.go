package console_test

import (
	"net/http"
	"net/url"
	"testing"
)

func TestChecks_settings(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	p.get("/policies").wants(t, "the way there", http.StatusOK, `href="/policies/checks"`)
	p.get("/policies/checks").wants(t, "the page", http.StatusOK, "Scheduled Integrity Check Settings", "Period for Key Request Attempt(s)", `value="03:00"`, `value="2h"`,
		"Europe/Berlin", "1 key has not been checked although it was due")
	form := url.Values{"schedule": {"daily"}, "time": {"27:00"}, "retry_seconds": {"3h"}}
	p.post("/policies/checks", form).wants(t, "no such time", http.StatusUnprocessableEntity, "A time from 00:00 to 23:59.", `value="27:00"`, `value="3h"`)
	form.Set("time", "23:30")
	form.Set("retry_seconds", "soon")
	p.post("/policies/checks", form).wants(t, "no such period", http.StatusUnprocessableEntity, "Choose 0 to 30 days.")
	form.Set("retry_seconds", "1d")
	p.post("/policies/checks", form).leadsTo(t, "saved", "/policies/checks")
	p.get("/policies/checks").wants(t, "saved", http.StatusOK, `value="23:30"`, `value="1d"`, "Saved.")
}

func TestChecks_noticesAndCheckNow(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("key-approver")
	p.get("/instances").wants(t, "notices", http.StatusOK, "Integrity check failed", "must satisfy only these 22, 5432", "Integrity check not answered", `action="/notices/notice-1/dismiss"`,
		"Encryption not begun", `<a href="/inventory/devices/`+"device-")
	p.post("/notices/notice-1/dismiss", nil).leadsTo(t, "dismiss", "/instances")
	p.get("/instances").wants(t, "the rest", http.StatusOK, `action="/notices/notice-2/dismiss"`)
	p.get("/key-requests/request-4").wants(t, "a delivered key", http.StatusOK, "Check Now", `action="/key-requests/request-4/check"`)
	p.post("/key-requests/request-4/check", nil).leadsTo(t, "check", "/key-requests/request-4")
	p.get("/key-requests/request-4").wants(t, "asked", http.StatusOK, "The machine was asked for fresh evidence.")
	p.post("/instances/instance-1/check", nil).leadsTo(t, "check a machine", "/instances/instance-1")
	p.post("/inventory/devices/device-1/check", nil).leadsTo(t, "check a device's machine", "/inventory/devices/device-1")
}

func TestPolicyForm_checksAfterDelivery(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	page := p.get("/policies/policy-2")
	page.wants(t, "the form", http.StatusOK, "Enable scheduled integrity checking", "If one or more rule fails in a check", "Postpone revoke for", "may lose or corrupt")
}
