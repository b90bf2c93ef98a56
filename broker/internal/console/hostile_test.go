package console_test

import (
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"keyward/broker/internal/console"
)

const hostile = `x"'></title></script></textarea><script>alert(1)</script><img src=x onerror=alert(1)>`

var element = regexp.MustCompile(`(?is)<(/?[a-z][a-z0-9]*)\b[^>]*?>`)

func elements(page string) []string {
	var names []string
	for _, match := range element.FindAllStringSubmatch(page, -1) {
		names = append(names, strings.ToLower(match[1]))
	}
	return names
}

// What machines say of themselves and people type is text on every page, whatever it looks like.
func TestPages_hostileNamesAreText(t *testing.T) {
	t.Parallel()
	pages := []string{"/key-requests/request-3", "/key-requests/request-4", "/inventory/devices/device-1", "/inventory/devices/encrypt?id=device-3&id=device-1",
		"/inventory/devices/delete?id=device-8&id=device-1", "/policies/delete?id=policy-2&id=policy-3", "/admin/users/delete?id=user-6", "/policies/policy-1"}
	for _, r := range console.Routes() {
		if r.Method == http.MethodGet && !strings.HasPrefix(r.Path, "/logs/export.") && !strings.HasPrefix(r.Path, "/logs/proofs/") && r.Path != "/" {
			pages = append(pages, pathOf(r))
		}
	}
	plain, attacked := newSite(t), newSite(t)
	plain.broker.Taint("harmless")
	attacked.broker.Taint(hostile)
	for _, role := range []string{"account-administrator", "security-administrator"} { // together they see every page
		one, other := plain.as(role), attacked.as(role)
		for _, path := range pages {
			want, got := one.get(path), other.get(path)
			if want.status != got.status {
				t.Errorf("%s: status %d, with hostile names %d", path, want.status, got.status)
			}
			if !reflect.DeepEqual(elements(want.body), elements(got.body)) {
				t.Errorf("%s: hostile names change the page", path)
			}
			if strings.Contains(got.body, "<script>alert") || strings.Contains(got.body, "<img src=x") {
				t.Errorf("%s: hostile names are markup", path)
			}
		}
	}
}

// What a visitor puts into an address or a form comes back as text as well.
func TestPages_hostileInputIsText(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.as("account-administrator")
	for _, path := range []string{"/instances?q=", "/instances?status=", "/inventory/devices?q=", "/inventory/devices?status=", "/inventory/images?q=", "/logs?type=", "/logs?from=",
		"/inventory/devices/encrypt?id=", "/policies/delete?id=", "/instances?page=", "/events/rows?topic=", "/key-requests/"} {
		a := p.get(path + strings.NewReplacer(`"`, "%22", "<", "%3C", ">", "%3E", " ", "%20", "'", "%27", "/", "%2F").Replace(hostile))
		if strings.Contains(a.body, "<script>alert") || strings.Contains(a.body, "<img src=x") {
			t.Errorf("%s: the address is drawn as markup", path)
		}
		if a.status >= 500 {
			t.Errorf("%s: status %d", path, a.status)
		}
	}
	for _, path := range []string{"/policies/new", "/admin/users/new", "/admin/tokens/new", "/admin/time", "/inventory/raid-sets/new", "/inventory/images/image-1", "/inventory/devices/device-3"} {
		form := map[string][]string{"version": {"1"}, "edit": {hostile}, "new-fact": {hostile}, "rules[0].fact": {hostile}, "rules[0].conditions[0].operator": {hostile},
			"rules[0].conditions[0].value": {hostile}}
		for _, name := range []string{"name", "description", "display_name", "email", "role", "uses", "expire_seconds", "time_zone", "date_format", "mount_point", "lease_seconds", "image_id", "platform"} {
			form[name] = []string{hostile}
		}
		a := p.post(path, form)
		if strings.Contains(a.body, "<script>alert") || strings.Contains(a.body, "<img src=x") {
			t.Errorf("%s: the form is drawn as markup", path)
		}
		if a.status >= 500 {
			t.Errorf("%s: status %d", path, a.status)
		}
	}
}
