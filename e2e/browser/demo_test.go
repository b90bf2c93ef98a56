package browser

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// D-01, C-10: each role finds in the menu what the matrix gives it.
func TestMenu_ofEachRole(t *testing.T) {
	site := demo(t)
	all := []string{"Running Instances", "Policies", "Images", "Devices", "Jobs", "Key Exports", "Query", "Archived", "Proofs", "User Management", "Deep Security Settings",
		"Recovery Key", "Key Export Settings", "Change Password", "Second Factor", "Sessions", "Time Information"}
	for user, lacks := range map[string][]string{
		"ada": {"Key Exports"}, "otto": nil, "sven": {"Policies", "Images", "User Management", "Deep Security Settings", "Time Information"},
		"dana": {"Running Instances", "Policies", "Images", "Devices", "Jobs", "Key Exports", "User Management", "Deep Security Settings", "Recovery Key", "Key Export Settings", "Time Information"},
		"kim":  {"Key Exports", "Query", "Archived", "Proofs", "User Management", "Deep Security Settings", "Recovery Key", "Key Export Settings", "Time Information"},
	} {
		b := open(t, site)
		b.logOn(demoAccount, user, demoPassword)
		var want []string
		for _, title := range all {
			if !slices.Contains(lacks, title) {
				want = append(want, title)
			}
		}
		got := eval[[]string](b, `[...document.querySelectorAll('#nav a')].map(a => a.textContent.trim())`)
		if !slices.Equal(got, want) {
			t.Errorf("%s sees the menu %q, want %q", user, got, want)
		}
		if header := eval[string](b, `document.querySelector('.viewer').textContent`); !strings.Contains(header, "Logged in as: "+user) {
			t.Errorf("B-05: the header says %q", header)
		}
		b.press(".topbar .log-off")
		b.until("the log-on page", `location.pathname === '/logon'`)
	}
}

// E-14 and the live rows: a decision in one browser changes the row in another, which is not reloaded.
func TestApprove_rowChangesElsewhereWithoutReload(t *testing.T) {
	site := demo(t)
	watcher, approver := open(t, site), open(t, site)
	watcher.logOn(demoAccount, "ada", demoPassword)
	watcher.visit("/instances")
	eval[bool](watcher, `window.notReloaded = true`)
	row := `document.querySelector('#row-request-1 .badge').textContent.trim()`
	if before := eval[string](watcher, row); before != "Pending" {
		t.Fatalf("the row says %q", before)
	}
	approver.logOn(demoAccount, "kim", demoPassword)
	approver.press("#row-request-1 .badge-link")
	approver.fill("#f-reason", "Known maintenance window")
	approver.press(".decision .button.primary")
	approver.until("the message", `document.querySelector('#flash').textContent.includes('was approved')`)
	watcher.until("the row", row+` === 'Approved' && window.notReloaded === true`)
	watcher.until("the counters", `document.querySelector('.counters').textContent.replace(/\s+/g, ' ').includes('3 Key(s) Pending')`)
	watcher.until("the announcement", `document.getElementById('announce').textContent !== ''`)
}

// Every page works as plain forms: the same decision without any script.
func TestApprove_withoutScripts(t *testing.T) {
	b := open(t, demo(t))
	b.do("switch scripts off", func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, target, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return chromedp.Void{}, err
	})
	plain := func(what, selector, arrived string) {
		b.do("click "+selector, chromedp.Click(chromedp.CSS(selector)))
		b.until(what, arrived)
	}
	b.do("open", chromedp.Navigate(b.url+"/key-requests/request-2"))
	b.until("the log-on page", `location.pathname === '/logon'`)
	if eval[bool](b, `document.documentElement.classList.contains('scripted')`) {
		t.Fatal("scripts run")
	}
	b.fill("#f-account", demoAccount)
	b.fill("#f-user", "ada")
	b.fill("#f-password", demoPassword)
	plain("the request", ".logon button.primary", `location.pathname === '/key-requests/request-2'`)
	b.fill("#f-reason", "by plain forms")
	plain("approved", ".decision .button.primary", `location.pathname === '/instances' && document.querySelector('#row-request-2 .badge').textContent.trim() === 'Approved'`)

	b.do("devices", chromedp.Navigate(b.url+"/inventory/devices"))
	b.do("tick", chromedp.Click(chromedp.CSS("#tick-device-3")))
	plain("the question", `button[data-action=encrypt]`, `location.pathname === '/inventory/devices/encrypt' && document.querySelector('h1').textContent === 'Encrypt Devices'`)
	b.do("tick destroy", chromedp.Click(chromedp.CSS(`[name="destroy.device-3"]`)))
	b.fill(`[name="confirm.device-3"]`, "archive")
	plain("ordered", "button[data-confirm]", `location.pathname === '/inventory/devices' && document.querySelector('#row-device-3 .badge').textContent.trim() === 'Encryption pending'`)

	b.do("policy", chromedp.Navigate(b.url+"/policies/policy-3"))
	if parts := eval[int](b, `[...document.querySelectorAll('.part')].filter(part => part.checkVisibility()).length`); parts != 6 {
		t.Errorf("without scripts %d of 6 parts of the policy are visible", parts)
	}
	plain("a rule", `button[value=add-rule]`, `document.querySelectorAll('.rule').length === 1`)

	b.do("dark", chromedp.Click(chromedp.CSS(`.topbar button[value=dark]`)))
	b.until("the dark theme", `document.documentElement.dataset.theme === 'dark'`)
}

// D-16: buttons follow the selection; destructive ones open a dialog that wants the device's name.
func TestDevices_selectionAndDialog(t *testing.T) {
	b := open(t, demo(t))
	b.logOn(demoAccount, "ada", demoPassword)
	b.visit("/inventory/devices")
	off := func(action string) bool {
		return eval[bool](b, fmt.Sprintf(`document.querySelector('[data-action=%s]').disabled`, action))
	}
	click := func(selector string) { b.t.Helper(); b.do("click "+selector, chromedp.Click(chromedp.CSS(selector))) }
	if !off("encrypt") || !off("delete") {
		t.Error("actions are on without a selection")
	}
	click("#tick-device-3")
	if off("encrypt") || !off("delete") {
		t.Error("a configured device can be encrypted and not deleted")
	}
	click("#tick-device-8")
	if !off("encrypt") || !off("delete") {
		t.Error("a mixed selection allows nothing")
	}
	click("#tick-device-8")
	click("[data-action=encrypt]")
	b.until("the dialog", `document.getElementById('dialog').open`)
	b.inspect("encrypt dialog")
	if !eval[bool](b, `document.getElementById('dialog').contains(document.activeElement)`) {
		t.Error("the focus is not in the dialog")
	}
	if !eval[bool](b, `document.querySelector('#dialog [data-confirm]').disabled`) {
		t.Error("the button is on before the name is typed")
	}
	b.do("escape", chromedp.KeyEvent(kb.Escape))
	b.until("closed", `!document.getElementById('dialog').open && document.activeElement.dataset.action === 'encrypt'`)
	click("[data-action=encrypt]")
	b.until("the dialog", `document.getElementById('dialog').open`)
	click(`#dialog [name="destroy.device-3"]`)
	b.fill(`#dialog [name="confirm.device-3"]`, "archive")
	b.press("#dialog [data-confirm]")
	b.until("ordered", `document.querySelector('#row-device-3 .badge').textContent.trim() === 'Encryption pending'`)
}

// G-01, H-01, D-21: tabs by keyboard, a picker's search, rules without leaving the page, Save.
func TestPolicy_tabsPickerAndRules(t *testing.T) {
	b := open(t, demo(t))
	b.logOn(demoAccount, "ada", demoPassword)
	b.visit("/policies/new")
	step := func() { b.do("next", chromedp.Click(chromedp.CSS("[data-step='1']"))) }
	shown := `document.querySelector('.part:not([hidden])').id`
	step()
	if part := eval[string](b, shown); part != "part-info" {
		t.Errorf("without a name the wizard goes on to %s", part)
	}
	b.fill("#f-name", "Web servers")
	step()
	b.until("step two", shown+` === 'part-images'`)
	b.inspect("wizard, images")
	step()
	b.fill("#search-device", "pgdata")
	b.until("the search", `document.querySelectorAll('#part-devices [data-row]:not([hidden])').length === 2`)
	b.do("choose", chromedp.Click(chromedp.CSS(`#part-devices [value=device-1]`)))
	step()
	b.do("a fact", chromedp.SetValue(chromedp.CSS("#new-fact"), "listening_tcp_ports"))
	b.do("add", chromedp.Click(chromedp.CSS("[value=add-rule]")))
	b.until("the rule", `document.querySelectorAll('.rule').length === 1 && document.activeElement.name === 'rules[0].conditions[0].value'`)
	b.inspect("wizard, rules")
	b.do("type", chromedp.KeyEvent("no port"))
	b.do("back to the start", chromedp.Click(chromedp.CSS("#tab-part-info")))
	b.do("keyboard", chromedp.KeyEvent(kb.ArrowLeft))
	b.until("the preview by keyboard", shown+` === 'part-preview'`)
	b.press("[name=then][value=back]")
	b.until("the wrong rule is shown", shown+` === 'part-rules' && document.querySelector('.rule .error') !== null`)
	b.inspect("wizard, refused")
	b.do("correct", chromedp.SetValue(chromedp.CSS(`[name="rules[0].conditions[0].value"]`), "22, 443"))
	b.press("[name=then][value=back]")
	b.until("the list", `location.pathname === '/policies' && document.body.textContent.includes('Web servers')`)
}

// A rule on a package asks for its name, one on a product offers the products, and an expression has room to be read.
func TestPolicy_rulesOnPackagesProductsAndExpressions(t *testing.T) {
	b := open(t, demo(t))
	b.logOn(demoAccount, "ada", demoPassword)
	b.visit("/policies/policy-2#part-rules")
	rules := eval[int](b, `document.querySelectorAll('.rule').length`)
	name := func(field string) string { return fmt.Sprintf(`[name="rules[%d].%s"]`, rules, field) }
	is := func(field, tag string) string {
		return fmt.Sprintf(`document.querySelector('%s')?.tagName === '%s'`, name(field), tag)
	}
	fact := func(value string) {
		eval[bool](b, fmt.Sprintf(`(() => { const s = document.querySelector('%s'); s.value = '%s'; return s.dispatchEvent(new Event('change', { bubbles: true })) })()`, name("fact"), value))
	}
	b.do("a fact", chromedp.SetValue(chromedp.CSS("#new-fact"), "package_version"))
	b.do("add", chromedp.Click(chromedp.CSS("[value=add-rule]")))
	b.until("the package", is("subject", "INPUT"))
	fact("av_pattern_date")
	b.until("the products", is("subject", "SELECT"))
	b.inspect("rule on a product")
	fact("expression")
	b.until("the expression", is(`conditions[0].value`, "TEXTAREA")+` && document.querySelector('`+name("subject")+`') === null`)
	b.do("type", chromedp.SetValue(chromedp.CSS(name("conditions[0].value")), "facts.guest_os == \"linux\" &&\n  facts.shoe_size > 42"))
	eval[bool](b, `document.querySelector('.names').open = true`)
	b.inspect("rule by an expression")
	for _, width := range []int64{768, 390} {
		b.viewport(width, 900)
		b.inspect(fmt.Sprintf("rule by an expression at %d", width))
	}
	b.theme("dark")
	b.press(".buttons [name=then][value=stay]")
	b.until("the place of the error", `document.querySelector('.rule .error')?.textContent.includes("ine 2, column 8: undefined field 'shoe_size'")`)
	b.inspect("refused expression in the dark")
	b.do("correct", chromedp.SetValue(chromedp.CSS(name("conditions[0].value")), "facts.guest_os == \"linux\" &&\n  !(80 in facts.listening_tcp_ports)"))
	b.press(".buttons [name=then][value=stay]")
	b.until("what was saved", fmt.Sprintf(`document.querySelector('%s')?.value.includes("\n  !(80 in")`, name("conditions[0].value")))
}

// Z-27: before a policy is saved its page says what it would do, and what it would have done; nothing is saved by asking.
func TestPolicy_previewAndReplay(t *testing.T) {
	b := open(t, demo(t))
	b.logOn(demoAccount, "ada", demoPassword)
	b.visit("/policies/policy-2#part-preview")
	eval[bool](b, `window.notReloaded = true`)
	count := func(outcome string) string {
		return fmt.Sprintf(`document.querySelector('[data-outcome="%s"] td:last-child')?.textContent`, outcome)
	}
	b.do("preview", chromedp.Click(chromedp.CSS(`[value=preview]`)))
	b.until("the figures", count("Revoked when checked")+` === '1' && window.notReloaded === true`)
	b.until("the rule that decides", `document.querySelector('.preview-rows').textContent.includes('(only these 22, 5432)')`)
	b.until("the announcement", `document.getElementById('announce').textContent.includes('judged otherwise')`)
	b.inspect("preview")
	for _, width := range []int64{768, 390} {
		b.viewport(width, 900)
		b.inspect(fmt.Sprintf("preview at %d", width))
	}
	b.theme("dark")
	b.inspect("preview in the dark")
	b.do("replay", chromedp.Click(chromedp.CSS(`[value=replay]`)))
	b.until("what happened", `document.querySelector('#preview h3').textContent.includes('last 30 days') && document.querySelector('.preview-rows').textContent.includes('approved by kim')`)
	b.inspect("replay")
	b.do("the name", chromedp.SetValue(chromedp.CSS("#f-lease_seconds"), "1s"))
	b.do("preview", chromedp.Click(chromedp.CSS(`[value=preview]`)))
	b.until("the refusal", `document.querySelector('#preview .flash').textContent.includes('lease_seconds')`)
	b.visit("/policies") // another place of the same page would not be fetched anew
	b.visit("/policies/policy-2#part-preview")
	if version := eval[string](b, `document.querySelector('[name=version]').value`); version != "4" {
		t.Errorf("asking has saved version %s", version)
	}
	// Who would lose the key by the policy as it is saved is checked from here.
	b.do("preview", chromedp.Click(chromedp.CSS(`[value=preview]`)))
	b.until("check now", `document.querySelector('.preview-rows [formaction]') !== null`)
	b.press(".preview-rows [formaction]")
	b.until("the machine", `location.pathname.startsWith('/instances/instance-') && document.getElementById('flash').textContent !== ''`)
}

// B-03: the meter follows the typing.
func TestPassword_liveStrength(t *testing.T) {
	b := open(t, demo(t))
	b.logOn(demoAccount, "dana", demoPassword)
	b.visit("/admin/password")
	text := `document.querySelector('.strength-text').textContent`
	for _, c := range []struct{ typed, says string }{{"abc", "Very weak"}, {"DEF1", "Fair"}, {"gh#xyz", "Strong"}} {
		b.fill("#f-new", c.typed)
		b.until(c.says, text+fmt.Sprintf(` === %q`, c.says))
	}
	b.inspect("password")
}

func TestPreferences_themeAndMenu(t *testing.T) {
	b := open(t, demo(t))
	b.logOn(demoAccount, "ada", demoPassword)
	background := `getComputedStyle(document.body).backgroundColor`
	light := eval[string](b, background)
	b.do("dark", chromedp.Click(chromedp.CSS(`.topbar button[value=dark]`)))
	b.until("dark", fmt.Sprintf(`%s !== %q`, background, light))
	b.do("collapse", chromedp.Click(chromedp.CSS(`[name=sidebar]`)))
	b.until("collapsed", `document.body.classList.contains('collapsed')`)
	b.inspect("collapsed menu")
	b.visit("/policies")
	b.until("kept", `document.body.classList.contains('collapsed') && document.documentElement.dataset.theme === 'dark'`)

	b.viewport(390, 800)
	b.visit("/policies")
	if eval[bool](b, `document.getElementById('nav').checkVisibility()`) {
		t.Error("the menu covers a narrow page")
	}
	b.do("menu", chromedp.Click(chromedp.CSS(`[popovertarget=nav]`)))
	b.until("the menu", `document.getElementById('nav').checkVisibility()`)
	b.inspect("narrow menu")
	b.do("escape", chromedp.KeyEvent(kb.Escape))
	b.until("closed", `!document.getElementById('nav').checkVisibility()`)
}

// WCAG 2.4.3, 2.4.7: Tab goes through the page in its order, and every stop is visible.
func TestKeyboard_focusOrderAndVisibility(t *testing.T) {
	b := open(t, demo(t))
	b.logOn(demoAccount, "ada", demoPassword)
	for _, path := range []string{"/instances", "/key-requests/request-1", "/inventory/devices", "/policies/policy-2", "/admin/users"} {
		b.visit(path)
		last, stops := -1, 0
		for range 200 {
			b.do("tab", chromedp.KeyEvent(kb.Tab))
			stop := eval[struct {
				At      int
				Visible bool
				Name    string
			}](b, `(() => {
				const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect()
				return { At: [...document.querySelectorAll('*')].indexOf(e), Name: e.outerHTML.slice(0, 100),
					Visible: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 && box.bottom > 0 && box.top < innerHeight }
			})()`)
			if strings.HasPrefix(stop.Name, "<body") {
				break // round the end, into the browser itself
			}
			stops++
			if stops == 1 && !strings.Contains(stop.Name, "skip") {
				t.Errorf("%s: the first stop is %s", path, stop.Name)
			}
			if stop.At <= last {
				t.Errorf("%s: the focus goes back to %s", path, stop.Name)
			}
			if !stop.Visible {
				t.Errorf("%s: the focus cannot be seen on %s", path, stop.Name)
			}
			last = stop.At
		}
		if stops < 15 {
			t.Errorf("%s: Tab stops only %d times", path, stops)
		}
	}
}

// The policy that the other tests rely on to fail really holds: inline script does not run, markup from text is refused.
func TestContentPolicy_holds(t *testing.T) {
	b := open(t, demo(t))
	b.visit("/logon")
	refused := eval[bool](b, `(() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true } })()`)
	if !refused {
		t.Error("markup is made from text without the policy named ui")
	}
	eval[bool](b, `(() => {
		const e = document.createElement('div')
		try { e.setAttribute('onclick', 'window.ran = true') } catch { return true }
		document.body.append(e)
		e.click()
		return true
	})()`)
	if eval[bool](b, `window.ran === true`) {
		t.Error("an inline handler ran")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.complaints) == 0 {
		t.Error("the browser did not report the violation, so no test would notice one")
	}
	b.complaints = nil
}

// The inspection that the other tests rely on finds what it looks for.
func TestInspect_findsFaults(t *testing.T) {
	b := open(t, demo(t))
	b.logOn(demoAccount, "ada", demoPassword)
	b.visit("/admin/users/new")
	if findings := eval[[]string](b, inspectJS); len(findings) != 0 {
		t.Fatalf("the page has faults of its own: %q", findings)
	}
	for fault, breakIt := range map[string]string{
		"no label":              `document.querySelector('label[for=f-email]').remove()`,
		"id used twice":         `document.querySelector('#f-name').id = 'f-email'`,
		"contrast":              `document.querySelector('h1').style.color = '#bbb'`,
		"target of":             `Object.assign(document.querySelector('.button').style, { minHeight: '0', height: '12px', padding: '0' })`,
		"the page is":           `document.querySelector('.card').style.minWidth = '3000px'`,
		"no name":               `document.querySelector('[aria-label="Dark theme"]').removeAttribute('aria-label') ?? document.querySelector('[title="Dark theme"]').removeAttribute('title')`,
		"heading":               `document.querySelector('h1').remove()`,
		"names nothing":         `document.querySelector('#f-name-help').remove()`,
		"leaves the page":       `document.querySelector('.card').style.marginLeft = '1400px'`,
		"border contrast":       `document.querySelector('#f-email').style.borderColor = '#eee'`,
		"text is cut":           `Object.assign(document.querySelector('.intro').style, { width: '60px', overflow: 'hidden', whiteSpace: 'nowrap' })`,
		"heading level skipped": `document.querySelector('h1').after(document.createElement('h4'))`,
	} {
		b.visit("/admin/users/new")
		eval[bool](b, `(() => { `+breakIt+`; return true })()`)
		if findings := eval[[]string](b, inspectJS); !strings.Contains(strings.Join(findings, "\n"), fault) {
			t.Errorf("%s is not found, only %q", fault, findings)
		}
	}
}
