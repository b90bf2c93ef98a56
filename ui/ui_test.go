package ui

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// hostile breaks out of every context of a page that does not escape: text, attributes in both quotes, script, style,
// comments and links.
const hostile = `"'></title></script></textarea></style>--><script>alert(1)</script><img src=x onerror=alert(1)>{{.}}javascript:alert(1)`

// fill puts a value into every field of a model, however deep, and two elements into every list.
func fill(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), text)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), text)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), text)
		}
	}
}

func filled(model any, text string) any {
	v := reflect.New(reflect.TypeOf(model)).Elem()
	fill(v, text)
	return v.Interface()
}

var tag = regexp.MustCompile(`(?is)<(/?[a-z][a-z0-9]*)\b[^>]*?>`)

// shape is the sequence of elements of a page; what people and machines write must not change it.
func shape(page string) []string {
	var names []string
	for _, match := range tag.FindAllStringSubmatch(page, -1) {
		names = append(names, strings.ToLower(match[1]))
	}
	return names
}

func TestRender_hostileTextChangesNoPage(t *testing.T) {
	t.Parallel()
	for name, model := range Pages() {
		var plain, attacked bytes.Buffer
		if err := Render(&plain, name, filled(model, "harmless")); err != nil {
			t.Fatal(err)
		}
		if err := Render(&attacked, name, filled(model, hostile)); err != nil {
			t.Fatal(err)
		}
		want, got := shape(plain.String()), shape(attacked.String())
		if !reflect.DeepEqual(want, got) {
			t.Errorf("%s: hostile text changes the page's elements (%d instead of %d)", name, len(got), len(want))
		}
		page := attacked.String()
		for _, active := range []string{"<script>alert", "onerror=alert(1)>", `href="javascript:`, `action="javascript:`} {
			if strings.Contains(page, active) {
				t.Errorf("%s: the page contains %q", name, active)
			}
		}
	}
}

// Without this the test above could pass because nothing is drawn at all.
func TestRender_drawsWhatTheModelHolds(t *testing.T) {
	t.Parallel()
	for name, model := range Pages() {
		var out bytes.Buffer
		if err := Render(&out, name, filled(model, "needle")); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), "needle"); n < 15 {
			t.Errorf("%s: the page shows only %d of its model's texts", name, n)
		}
	}
}

func TestRender_nothingInline(t *testing.T) {
	t.Parallel()
	inline := regexp.MustCompile(`(?i)<script(?:[^>]*)>\s*[^<\s]|<style|\sstyle=|\son[a-z]+=|javascript:`)
	for name, model := range Pages() {
		var out bytes.Buffer
		if err := Render(&out, name, filled(model, "text")); err != nil {
			t.Fatal(err)
		}
		if found := inline.FindString(out.String()); found != "" {
			t.Errorf("%s: %q would break the content security policy", name, found)
		}
	}
}

func TestRender_everyFormThatWritesCarriesTheToken(t *testing.T) {
	t.Parallel()
	forms := regexp.MustCompile(`(?is)<form[^>]*method="post"[^>]*>(.*?)</form>`)
	for name, model := range Pages() {
		if name == "logon" {
			continue // before log-on there is no session to bind a token to
		}
		var out bytes.Buffer
		if err := Render(&out, name, filled(model, "text")); err != nil {
			t.Fatal(err)
		}
		for _, form := range forms.FindAllStringSubmatch(out.String(), -1) {
			if !strings.Contains(form[1], `name="csrf_token"`) {
				t.Errorf("%s: a form without token: %.120s", name, form[0])
			}
		}
	}
}

func TestRender_refusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := Render(&out, "no-such-page", LogsPage{}); err == nil || out.Len() != 0 {
		t.Errorf("an unknown page was drawn: %v, %d bytes", err, out.Len())
	}
	if err := Render(&out, "logs", UsersPage{}); err == nil || out.Len() != 0 {
		t.Errorf("a page was drawn from another page's model: %v, %d bytes", err, out.Len())
	}
	if err := Render(io.Discard, "logs", LogsPage{}); err != nil {
		t.Errorf("an empty model is not drawn: %v", err)
	}
}

func TestRender_longValuesAreWhole(t *testing.T) {
	t.Parallel()
	long := "/mnt/" + strings.Repeat("a-long-name/", 40)
	var out bytes.Buffer
	if err := Render(&out, "key-request", KeyRequestPage{Values: []KeyValue{{Actual: long}}}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), long) {
		t.Error("E-13: the value is not whole")
	}
}

func TestAsset_onlyEmbeddedFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"app.css", "logo.svg", "js/main.js", "js/page.js"} {
		if data, mediaType, ok := Asset(name); !ok || len(data) == 0 || mediaType == "" {
			t.Errorf("%s is not served", name)
		}
	}
	for _, name := range []string{"", ".", "..", "../ui.go", "js", "js/../../view.go", "/app.css", "template/frame.html", "js/main.js\x00"} {
		if _, _, ok := Asset(name); ok {
			t.Errorf("%q is served", name)
		}
	}
	if _, mediaType, _ := Asset("js/main.js"); !strings.HasPrefix(mediaType, "text/javascript") {
		t.Errorf("modules are served as %s; browsers run only text/javascript", mediaType)
	}
}

func TestWhen_relativeThenAbsolute(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	zone := time.FixedZone("PST", -8*3600)
	cases := []struct {
		age  time.Duration
		want string
	}{
		{0, "just now"}, {-30 * time.Second, "just now"}, {time.Second, "1 second ago"}, {59 * time.Second, "59 seconds ago"}, {12 * time.Minute, "12 minutes ago"},
		{time.Hour, "1 hour ago"}, {2*time.Hour + 50*time.Minute, "2 hours ago"}, {24*time.Hour - 1, "23 hours ago"},
		{24 * time.Hour, "21 Nov 2026 04:00:00 PST"}, {-2 * time.Hour, "in 2 hours"}, {-48 * time.Hour, "24 Nov 2026 04:00:00 PST"},
	}
	for _, c := range cases {
		if got := NewWhen(now.Add(-c.age), now, zone, "2 Jan 2006 15:04:05 MST"); got.Text != c.want {
			t.Errorf("D-10: %v ago reads %q, want %q", c.age, got.Text, c.want)
		}
	}
	if got := NewWhen(time.Time{}, now, zone, ""); got.Text != "never" || got.ISO != "" {
		t.Errorf("no time reads %+v", got)
	}
}

func TestPager_ranges(t *testing.T) {
	t.Parallel()
	cases := []struct {
		page, size int
		total      int64
		rng, at    string
		prev, next bool
	}{
		{1, 10, 30, "1–10 of 30", "1 of 3", false, true}, {2, 10, 30, "11–20 of 30", "2 of 3", true, true}, {3, 10, 30, "21–30 of 30", "3 of 3", true, false},
		{9, 10, 30, "21–30 of 30", "3 of 3", true, false}, {1, 25, 0, "0–0 of 0", "1 of 1", false, false}, {-4, 0, 11, "1–10 of 11", "1 of 2", false, true},
	}
	for _, c := range cases {
		p := NewPager("/x", map[string][]string{"q": {"a&b"}}, c.page, c.size, c.total)
		if at := fmt.Sprintf("%d of %d", p.Page, p.Pages); p.Range() != c.rng || at != c.at || (p.Previous != "") != c.prev || (p.Next != "") != c.next {
			t.Errorf("D-11: page %d of size %d over %d: %s, page %s, previous %q, next %q", c.page, c.size, c.total, p.Range(), at, p.Previous, p.Next)
		}
		if c.next && !strings.Contains(p.Next, "q=a%26b") {
			t.Errorf("the next page forgets the search: %s", p.Next)
		}
	}
}

func TestBadge_everyStatusHasIconAndText(t *testing.T) {
	t.Parallel()
	for _, known := range []map[string]Badge{keyBadges, integrityBadges, deviceBadges, ruleBadges, gradeBadges, exportBadges, jobBadges, envelopeBadges} {
		for status, b := range known {
			if b.Text == "" || b.Tone == "" || icon(b.Icon) == "" {
				t.Errorf("%s has no text, tone or icon: %+v", status, b)
			}
		}
	}
	if b := KeyBadge("Something_New"); b.Tone != ToneIdle || b.Text != "Something New" || icon(b.Icon) == "" {
		t.Errorf("an unknown status is shown as %+v", b)
	}
}
