package console_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// D-28, W-03: the connection is tested without being saved, saved, and shown; the key never comes back.
func TestDeepSecurity_page(t *testing.T) {
	t.Parallel()
	const path = "/admin/deep-security"
	p := newSite(t).as("account-administrator")
	p.get(path).wants(t, "at first", http.StatusOK, "Enable connection", `value="4119"`, "No key is stored yet.")
	const secret = "2:c3VwZXJzZWNyZXQ="
	form := url.Values{"enabled": {"on"}, "server": {"nowhere.example.org"}, "port": {"4119"}, "api_key": {secret}}
	p.post(path+"/test", form).wants(t, "a test that fails", http.StatusUnprocessableEntity, "could not be asked", "No such host.", `value="nowhere.example.org"`)
	form.Set("port", "0")
	p.post(path, form).wants(t, "a port that is none", http.StatusUnprocessableEntity, `id="f-port-error"`)
	form.Set("port", "4119")
	form.Set("server", "")
	p.post(path, form).wants(t, "no server", http.StatusUnprocessableEntity, `id="f-server-error"`)
	form.Set("server", "dsm.harbour.example.org")
	tested := p.post(path+"/test", form)
	tested.wants(t, "a test that succeeds", http.StatusOK, "The manager answers.", "Nothing was saved yet.", "No key is stored yet.")
	p.post(path, form).leadsTo(t, "saving", path)
	saved := p.get(path)
	saved.wants(t, "connected", http.StatusOK, "Connected", "with 214 computers", "A key is stored and never shown.", "checked")
	for _, a := range []answer{tested, saved} {
		if strings.Contains(a.body, secret) {
			t.Error("the page shows the API key")
		}
	}
}
