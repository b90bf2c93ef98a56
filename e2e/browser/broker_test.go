package browser

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// realBroker starts a broker with the embedded store.
func realBroker(t *testing.T) *lab.Broker {
	t.Helper()
	// Unix sockets and logs of the broker stay out of the test's own folder, whose name can be too long.
	dir, err := os.MkdirTemp("", "keyward-real-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err := lab.StartBroker(t.Context(), lab.BrokerOptions{Bin: program(t, "keyward-broker"), Dir: filepath.Join(dir, "data"), RootKey: filepath.Join(dir, "keys", "root.key"),
		Account: "Harbour Clinic", Admin: "ada", Approver: "kim"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(15 * time.Second); err != nil {
			t.Errorf("stop the broker: %v; its log ends:\n%s", err, b.LogTail(20))
		}
	})
	return b
}

// The whole way through the console of a real broker: a token enrols a machine, its disk is configured and encrypted, its
// request waits, a second person approves, the row changes without a reload, the key is delivered and revoked, and the
// log has all of it.
func TestRealBroker_fromTokenToRevocation(t *testing.T) {
	broker := realBroker(t)
	setup := broker.Setup
	ada, kim := open(t, broker.URL), open(t, broker.URL)
	ada.logOn(setup.AccountName, setup.Admin.Name, setup.Admin.Password)
	kim.logOn(setup.AccountName, setup.Approver.Name, setup.Approver.Password)
	ada.visit("/instances")
	ada.inspect("no instances")

	ada.visit("/admin/tokens")
	ada.do("create a token", chromedp.Click(chromedp.CSS(".toolbar .button.primary")))
	ada.until("the dialog", `document.getElementById('dialog').open || location.pathname === '/admin/tokens/new'`)
	ada.visit("/admin/tokens/new")
	ada.fill("#f-description", "browser test")
	ada.press("#main form button.primary")
	token := eval[string](ada, `document.querySelector('.token code').textContent`)
	if !strings.HasPrefix(token, api.TokenPrefix+".") {
		t.Fatalf("the console shows the token %q", token)
	}
	m := enrol(t, broker.AgentURL, setup.AccountID, token)
	m.publish("data")

	ada.visit("/inventory/devices")
	ada.press("td.lead a")
	ada.do("configure", chromedp.SetValue(chromedp.CSS("#f-platform"), "linux:ext4"), chromedp.SetValue(chromedp.CSS("#f-access"), "read-write"))
	ada.fill("#f-mount_point", "/mnt/data")
	ada.press("button[value=stay]")
	ada.until("configured", `document.querySelector('#device-status').textContent.includes('Configured')`)
	ada.do("encrypt", chromedp.Click(chromedp.CSS(".toolbar .button.primary")))
	ada.until("the dialog", `document.getElementById('dialog').open`)
	ada.fill(`#dialog [data-match]`, "data")
	ada.press("#dialog [data-confirm]")
	ada.until("pending", `document.querySelector('tbody .badge').textContent.trim() === 'Encryption pending'`)
	eval[bool](ada, `window.notReloaded = true`)
	m.encrypt()
	ada.until("encrypted without a reload", `document.querySelector('tbody .badge').textContent.trim() === 'Encrypted' && window.notReloaded === true`)

	ada.visit("/instances")
	eval[bool](ada, `window.notReloaded = true`)
	r := m.request("db-01.example.org")
	badge := `document.querySelector('tbody tr .badge')?.textContent.trim()`
	ada.until("the request appears without a reload", badge+` === 'Pending' && window.notReloaded === true`)
	kim.visit("/instances")
	kim.press("tbody .badge-link")
	kim.until("the facts", `document.querySelector('.values-table').textContent.includes('db-01.example.org')`)
	kim.inspect("real key request")
	kim.fill("#f-reason", "known machine")
	kim.press(".decision .button.primary")
	kim.until("the message", `document.querySelector('#flash').textContent.includes('was approved')`)
	ada.until("approved without a reload", badge+` === 'Approved' && window.notReloaded === true`)
	m.collect(r)
	ada.until("delivered without a reload", badge+` === 'Delivered' && window.notReloaded === true`)

	kim.visit("/key-requests/" + r.ID)
	kim.until("decided", `document.querySelector('.closed').textContent.includes('decided') && document.querySelector('.decision') === null`)
	kim.do("revoke", chromedp.Click(chromedp.CSS(".toolbar .button.danger")))
	kim.until("the dialog", `document.getElementById('dialog').open`)
	kim.fill("#dialog textarea", "test is over")
	kim.press("#dialog [data-confirm]")
	kim.until("revoking", `document.querySelector('h1').textContent === 'Key Request (revoking)' && document.querySelector('ol.timeline').textContent.includes('test is over')`)
	ada.until("revoking without a reload", badge+` === 'Revoking' && window.notReloaded === true`)

	ada.visit("/logs?type=key")
	for _, event := range []string{"key-request.approved", "key-request.delivered", "key-request.revoke-asked"} {
		ada.until(event, fmt.Sprintf(`document.querySelector('.logs').textContent.includes(%q)`, event))
	}
	ada.inspect("real log")
	for _, path := range []string{"/policies", "/inventory/images", "/admin/users", "/admin/roles", "/admin/account", "/admin/time", "/admin/sessions", "/policies/new", "/inventory/raid-sets/new"} {
		ada.visit(path)
		ada.until(path, `document.querySelector('h1') !== null && document.querySelector('.problem') === null`)
		ada.inspect("real " + path)
	}

	// C-10 on the real thing: the approver is refused what only the administrator may do.
	kim.visit("/admin/users")
	kim.until("refused", `document.querySelector('h1').textContent === 'Not permitted'`)
}
