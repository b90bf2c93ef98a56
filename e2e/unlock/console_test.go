package unlock

import (
	"crypto/tls"
	"crypto/x509"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// browser reads the console's pages as a person without scripts gets them.
type browser struct {
	t    *testing.T
	base string
	http *http.Client
}

func (a *account) browser(as lab.Login) *browser {
	a.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.site.broker.CA)
	jar, err := cookiejar.New(nil)
	if err != nil {
		a.t.Fatal(err)
	}
	b := &browser{t: a.t, base: a.site.broker.URL, http: &http.Client{Jar: jar, Timeout: 20 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}}
	a.t.Cleanup(b.http.CloseIdleConnections)
	form := url.Values{"account": {a.setup.AccountName}, "user": {as.Name}, "password": {as.Password}}
	request, err := http.NewRequestWithContext(a.t.Context(), http.MethodPost, b.base+"/logon", strings.NewReader(form.Encode()))
	if err != nil {
		a.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Sec-Fetch-Site", "same-origin")
	if page := b.read(request); !strings.Contains(page, "Logged in as: <strong>"+as.Name) {
		a.t.Fatalf("log-on leads to %.600s", page)
	}
	return b
}

func (b *browser) read(request *http.Request) string {
	b.t.Helper()
	answer, err := b.http.Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(body)
}

// shows fails unless the page has every part. Parts are text as a person reads it, or markup.
func (b *browser) shows(path string, parts ...string) {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.base+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	page := b.read(request)
	whole := true
	for _, part := range parts {
		if !strings.Contains(page, part) && !strings.Contains(page, html.EscapeString(part)) {
			b.t.Errorf("%s does not show %q", path, part)
			whole = false
		}
	}
	if !whole {
		b.t.Logf("%s is\n%s", path, page)
	}
}

// opened is an account with one mounted volume and the console of its administrator.
func opened(t *testing.T, s *site) (*machine, api.Device, api.KeyRequestDetail, *browser) {
	t.Helper()
	m := newAccount(t, s).machine(1, "location: rack 7\n")
	p := auto()
	p.Description = "what runs on Linux"
	m.policy(m.device(0), p)
	d := m.encrypt(0, api.DeviceWrite{Description: "patient files"})
	m.mounted(0)
	m.becomes(d.ID, api.DeviceInUse)
	r := m.request(d.ID, api.KeyDelivered)
	return m, d, r, m.browser(m.setup.Admin)
}

// The pages of a key request and of what it concerns show the real thing, linked to each other.
func TestConsole_requestAndItsSubjects(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m, d, r, b := opened(t, s)
		request, device, image := "/key-requests/"+r.RequestID, "/inventory/devices/"+d.ID, "/inventory/images/"+r.ImageID
		instance, policy := "/instances/"+r.InstanceID, "/policies/"+r.PolicyID
		link := func(path string) string { return `href="` + path + `"` }
		// E-01, D-08, D-09, D-12
		b.shows("/instances", "<strong>1</strong>", "Delivered", "Good", link(request), link(device), link(image), link(instance), link(policy))
		// E-08, E-09, E-10, E-11, E-15, D-06, D-07
		b.shows(request, "Key Request (delivered)", "patient files", m.mountPoint(0), "ext4", "Linux", "Read/Write", "256 bits", "<code>= linux</code>", "rack 7",
			"<strong>1</strong> <span>Rule(s) Passed", "cannot be decided again", link(image), `aria-label="Breadcrumb"`, "Running Instances</a>")
		// D-13
		b.shows(instance, "Device List", link(device), ">Back<", "rack 7", m.mountPoint(0))
		// D-14, D-15, L-03, E-18
		b.shows("/inventory/images", link(image), r.ImageName)
		b.shows(image, "Here you can view an image", "Image Information", `name="name"`, `name="description"`, ">Policy<", link(policy), "Instance(s)", link(instance), ">Save<")
		// D-16, D-17, D-18, N-01 to N-06
		b.shows("/inventory/devices", link(device), "In-use", ">Encrypt<", ">Delete<", `type="checkbox"`, "Create RAID Set")
		b.shows(device, "Here you can say how a device is used", "Device Information", "patient files", "Device identity", d.Identity, "Platform / file system", "Mount point", "Access",
			"Instance(s)", "Image identity", ">Policy<", "Encryption Key", "AES", "256", "XTS", "SHA-256", "Stored", ">Save<", ">Apply<")
		// The Security Administrator is the one who finds Export.
		if err := m.Do(t.Context(), http.MethodPost, "/api/v1/users", api.UserWrite{Name: "sam", Role: api.RoleSecurityAdmin, Password: "Just+Enough1"}, nil); err != nil {
			t.Fatal(err)
		}
		m.browser(lab.Login{Name: "sam", Password: "Just+Enough1"}).shows("/inventory/devices", ">Export<")
	})
}

// The pages of policies, logs and administration of a real account.
func TestConsole_policiesLogsAdministration(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m, d, r, b := opened(t, s)
		policy := "/policies/" + r.PolicyID
		// D-19, G-05
		b.shows("/policies", `href="`+policy+`"`, "auto", "what runs on Linux", "Default", `type="checkbox"`, "Add Policy", ">Delete<")
		// D-20, G-13
		b.shows(policy, "Policy Information", `href="#part-images"`, `href="#part-devices"`, `href="#part-rules"`, `href="#part-actions"`,
			r.ImageName, d.Name, "Guest OS Information", "If all rules match", "If one or more rule", "Manual Approve", ">Save<", ">Apply<")
		// G-01: the steps of a new policy
		b.shows("/policies/new", "Define Policy Name", "Select Image(s)", "Select Device(s)", "Define Rule(s)", "Define Action", ">Next<", ">Finish<", ">Apply<",
			"Another rule on", "Host Name", "OS Version", "Network Services (TCP)")
		// D-04, D-24, S-01, S-06
		b.shows("/logs", "key-request.delivered", "/logs/export.csv", "UTC")
		b.shows("/logs/export.csv?type=policy", "sequence,time (UTC)", "policy.created")
		// D-05, D-26, B-13
		b.shows("/admin/users", "ada", "kim", "Account Administrator", "Key Approver", "/admin/roles")
		b.shows("/admin/roles", "Security Administrator", "Data Analyst", "Auditor", "Export device keys")
		b.shows("/admin/account", m.setup.AccountID, m.setup.AccountName, s.broker.AgentURL)
		b.shows("/admin/time", "Time zone", "Europe/Berlin")
		b.shows("/admin/password", `name="current"`, `name="new"`, `name="confirm"`)
		// C-10 on the real thing: what the approver may not open is neither offered nor given.
		kim := m.browser(m.setup.Approver)
		kim.shows("/admin/users", "Not permitted")
		kim.shows(policy, "auto")
	})
}
