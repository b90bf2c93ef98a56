package browser

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// demoPages are all pages of the console as the account administrator sees them.
var demoPages = []string{
	"/instances", "/instances?status=closed", "/instances?q=nothing-has-this-name", "/key-requests/request-1", "/key-requests/request-2", "/key-requests/request-3",
	"/key-requests/request-4", "/key-requests/request-4/revoke", "/instances/instance-1", "/inventory/images", "/inventory/images/image-1", "/inventory/devices",
	"/inventory/devices/device-3", "/inventory/devices/device-1", "/inventory/devices/encrypt?id=device-3&id=device-1", "/inventory/devices/device-3/unconfigure",
	"/inventory/devices/device-4/copy", "/inventory/raid-sets/new", "/inventory/raid-sets/device-9", "/policies", "/policies/new", "/policies/policy-2", "/policies/policy-2#part-rules", "/policies/policy-2#part-devices", "/policies/policy-2#part-actions", "/policies/policy-2#part-preview", "/policies/policy-1",
	"/policies/delete?id=policy-2&id=policy-3", "/logs", "/logs/archived", "/logs/proofs", "/logs/proofs?record=7", "/admin/users", "/admin/users/new", "/admin/users/user-2", "/admin/roles", "/admin/account", "/admin/tokens",
	"/admin/tokens/new", "/admin/password", "/admin/sessions", "/admin/time", "/admin/deep-security", "/admin/second-factor", "/admin/second-factor-settings",
	"/inventory/jobs", "/inventory/devices/device-2/cancel-rotation", "/inventory/devices/device-1/rotate-key", "/admin/export-settings", "/admin/recovery-key",
	"/policies/checks", "/instances/instance-1/clear", "/instances/instance-1/revoke-certificate", "/inventory/devices/no-such-device",
}

// securityPages are those of the console that only the security administrator sees whole.
var securityPages = []string{"/inventory/exports", "/inventory/exports/export-1", "/inventory/exports/export-2", "/inventory/exports/export-4", "/inventory/devices/export?id=device-1",
	"/admin/recovery-key", "/admin/recovery-key/set", "/admin/recovery-key/remove"}

// TestGallery_everyPage looks at every page in both themes and at the widths of desks, tablets and telephones: nothing overflows, everything is labelled and
// has contrast. KEYWARD_SCREENSHOTS=DIR keeps the pictures.
func TestGallery_everyPage(t *testing.T) {
	gallery(t, "ada", append([]string{"/logon"}, demoPages...), 1440, 1100, 768, 390)
}

// TestGallery_securityAdministrator looks at what is hers alone.
func TestGallery_securityAdministrator(t *testing.T) {
	gallery(t, "sven", append([]string{"/logon"}, securityPages...), 1440, 390)
}

func gallery(t *testing.T, user string, pages []string, widths ...int64) {
	dir := os.Getenv("KEYWARD_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	b := open(t, demo(t))
	for _, theme := range []string{"light", "dark"} {
		b.theme(theme)
		for _, width := range widths {
			if theme == "dark" && (width == 1100 || width == 768) {
				continue // widths break the same in both themes
			}
			b.viewport(width, 900)
			for _, path := range pages {
				if path == "/logon" && theme+fmt.Sprint(width) != "light1440" {
					continue // logged on from the second round; the first looks at it once
				}
				b.visit(path)
				name := fmt.Sprintf("%s-%s-%d-%s", user, theme, width, strings.NewReplacer("/", "_", "?", "-", "=", "-", "&", "-", "#", "-").Replace(strings.Trim(path, "/")))
				b.inspect(name)
				picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o600); err != nil {
					t.Fatal(err)
				}
				if path == "/logon" {
					b.logOn(demoAccount, user, demoPassword)
				}
			}
		}
	}
}
