package policyfile

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"keyward/broker/api"
	"keyward/broker/internal/policy"
	"keyward/broker/internal/policyset"
)

const example = `format: 1
account: Example
policies:
  - name: Default Policy
    default: true
    rules: []
    on_match: manual
    on_failure: manual
    lease_seconds: 300
    heartbeat_seconds: 30
    revoke_mode: unmount
  - name: Database servers
    rules:
      - fact: listening_tcp_ports
        match: all
        conditions:
          - operator: only these
            value: 5432
    on_match: approve
    on_failure: deny
    lease_seconds: 60
    heartbeat_seconds: 10
    revoke_mode: suspend
    images: [Debian 12]
    devices: ["data [id d2]"]
`

func account() ([]api.Policy, Names) {
	n := Names{Images: Register{"i1": "Debian 12", "i2": "Other"}, Devices: Register{"d1": "data", "d2": "data", "d3": "logs"}}
	policies := []api.Policy{
		{ID: "p0", Name: "Default Policy", Default: true, Rules: []api.Rule{}, OnMatch: api.ActionManual, OnFailure: api.ActionManual, LeaseSeconds: 300,
			HeartbeatSeconds: 30, RevokeMode: api.RevokeUnmount, ImageIDs: []string{"i1", "i2"}, DeviceIDs: []string{"d3"}, Version: 1},
		{ID: "p1", Name: "Web", Rules: []api.Rule{}, OnMatch: api.ActionManual, OnFailure: api.ActionManual, LeaseSeconds: 300,
			HeartbeatSeconds: 30, RevokeMode: api.RevokeUnmount, ImageIDs: []string{"i2"}, DeviceIDs: []string{"d1", "d2"}, Version: 7},
	}
	for i, p := range policies {
		policies[i] = policyset.Stored(p)
	}
	return policies, n
}

func decode(t *testing.T, text string) File {
	t.Helper()
	f, err := Decode(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDecode_takesTextsAsTheyStand(t *testing.T) {
	t.Parallel()
	f := decode(t, example)
	p := f.Policies[1]
	if p.Rules[0].Conditions[0].Value != "5432" || p.LeaseSeconds != 60 || !reflect.DeepEqual(*p.Devices, []string{"data [id d2]"}) || f.Policies[0].Images != nil {
		t.Errorf("%+v", f)
	}
	for text, want := range map[string]string{"1.10": "1.10", "2026-12-31": "2026-12-31", "true": "true", "~": "~", "0x1f": "0x1f", `"a\nb"`: "a\nb", "": ""} {
		got, err := Decode(strings.NewReader(strings.Replace(example, "value: 5432", "value: "+text, 1)))
		if text == "" {
			if err == nil || !strings.Contains(err.Error(), "line 18") {
				t.Errorf("a value that is missing: %v", err)
			}
			continue
		}
		if err != nil || got.Policies[1].Rules[0].Conditions[0].Value != want {
			t.Errorf("value %s: %v %+v", text, err, got)
		}
	}
}

func TestDecode_refusesWithTheLine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ from, to, want string }{
		"an unknown member":           {"on_match: approve", "on_mach: approve", `line 19 of the policy file: "on_mach" is not known`},
		"an unknown member of a rule": {"match: all", "matches: all", `line 15 of the policy file: "matches" is not known`},
		"a member twice":              {"lease_seconds: 60", "lease_seconds: 60\n    lease_seconds: 61", `"lease_seconds" comes twice`},
		"an ID":                       {"- name: Database servers", "- id: p1\n    name: Database servers", `"id" belongs to the broker`},
		"a version":                   {"- name: Database servers", "- version: 3\n    name: Database servers", `"version" belongs to the broker`},
		"a text for a number":         {"lease_seconds: 60", "lease_seconds: soon", `line 21 of the policy file: is "soon"; write a whole number`},
		"a fraction":                  {"lease_seconds: 60", "lease_seconds: 1.5", "whole number"},
		"a number too large":          {"lease_seconds: 60", "lease_seconds: 99999999999999999999", "whole number"},
		"a text for yes or no":        {"default: true", "default: maybe", "write true or false"},
		"a mapping for a list":        {"images: [Debian 12]", "images: {a: b}", "is not a list"},
		"a list for a text":           {"revoke_mode: suspend", "revoke_mode: [suspend]", "where a single value belongs"},
		"an anchor":                   {"- name: Database servers", "- name: &a Database servers", "anchor"},
		"a tag":                       {"value: 5432", "value: !!binary aGk=", "tag"},
		"another format":              {"format: 1", "format: 2", "reads format 1"},
		"two documents":               {"format: 1", "format: 1\n---\nformat: 1", "more than one document"},
		"no YAML":                     {"format: 1", "format: [", "not YAML"},
		"no name":                     {"- name: Database servers", "- name: ''", "policy 2 of the file has no name"},
		"a name twice":                {"- name: Database servers", "- name: DEFAULT policy", "two policies named"},
		"members of the default":      {"default: true", "default: true\n    images: []", "computed"},
		"too deep":                    {"images: [Debian 12]", "images: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), "single value"},
	} {
		_, err := Decode(strings.NewReader(strings.Replace(example, c.from, c.to, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for name, text := range map[string]string{"nothing": "", "a list": "- a", "a text": "hello", "too much": "a: '" + strings.Repeat("x", MaxBytes) + "'"} {
		if _, err := Decode(strings.NewReader(text)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestPlan_namesWhatChanges(t *testing.T) {
	t.Parallel()
	policies, n := account()
	plan, err := Make(decode(t, example), policies, n, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Steps) != 1 || plan.Steps[0].Action != Create || !slices.Equal(plan.Kept, []string{"Web"}) || !slices.Contains(plan.Steps[0].Diff, `+   - data [id d2]`) {
		t.Errorf("%+v", plan)
	}
	// Deleting Web leaves d1 without a policy; the file must say where it goes.
	_, err = Make(decode(t, example), policies, n, true)
	if err == nil || !strings.Contains(err.Error(), `still holds data [id d1]`) {
		t.Errorf("deleting a policy with devices: %v", err)
	}
	plan, err = Make(decode(t, strings.Replace(example, `["data [id d2]"]`, `["data [id d2]", "data [id d1]"]`, 1)), policies, n, true)
	if err != nil || len(plan.Steps) != 2 || plan.Steps[1].Action != Delete || plan.Steps[1].Policy != "Web" {
		t.Errorf("%+v: %v", plan, err)
	}
	// What a file leaves out stays, but for what it gives to another.
	web := `  - {name: Web, rules: [], on_match: manual, on_failure: manual, lease_seconds: 200, heartbeat_seconds: 30, revoke_mode: unmount}
`
	plan, err = Make(decode(t, example+web), policies, n, false)
	if err != nil || len(plan.Steps) != 2 || !slices.Equal(plan.Steps[1].to.DeviceIDs, []string{"d1"}) || !slices.Equal(plan.Steps[1].to.ImageIDs, []string{"i2"}) ||
		!slices.Contains(plan.Steps[1].Diff, "- lease_seconds: 300") || !slices.Contains(plan.Steps[1].Diff, "- - data [id d2]") && !slices.Contains(plan.Steps[1].Diff, "-   - data [id d2]") {
		t.Errorf("%+v: %v", plan, err)
	}
}

func TestPlan_refusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	policies, n := account()
	for name, c := range map[string]struct{ from, to, want string }{
		"a name that two have":       {"data [id d2]", "data", `2 devices are named "data": write "data [id d1]"`},
		"no such device":             {"data [id d2]", "tape", `there is no device named "tape"`},
		"another name for an ID":     {"data [id d2]", "logs [id d2]", `is named "data"`},
		"no such ID":                 {"data [id d2]", "data [id d9]", `no device with ID "d9"`},
		"no such image":              {"[Debian 12]", "[Debian 13]", `there is no image named "Debian 13"`},
		"listed twice":               {`["data [id d2]"]`, `["data [id d2]", "data [id d2]"]`, "listed twice"},
		"a rule that makes no sense": {"only these", "younger than", `rules[0].conditions[0].operator`},
		"another default":            {"name: Database servers", "name: Database servers\n    default: true\n    #", "cannot be changed"},
		"the default made ordinary":  {"default: true", "default: false", "cannot be changed"},
		"the default renamed":        {"name: Default Policy", "name: default policy", "keeps its name"},
	} {
		text := strings.Replace(example, c.from, c.to, 1)
		if name == "another default" {
			text = strings.NewReplacer("    images: [Debian 12]\n", "", "    devices: [\"data [id d2]\"]\n", "").Replace(text)
		}
		_, err := Make(decode(t, text), policies, n, false)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	twice := example + strings.Replace(example[strings.Index(example, "  - name: Database"):], "Database servers", "Second", 1)
	if _, err := Make(decode(t, twice), policies, n, false); err == nil || !strings.Contains(err.Error(), "in exactly one") {
		t.Errorf("a device in two policies: %v", err)
	}
}

// A plan counts while what it was made of is the same.
func TestPlan_digestsNoticeEveryChange(t *testing.T) {
	t.Parallel()
	policies, n := account()
	f := decode(t, example)
	first, err := Make(f, policies, n, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(p []api.Policy, n Names, f *File){
		"another version": func(p []api.Policy, _ Names, _ *File) { p[1].Version++ },
		"a member moved":  func(p []api.Policy, _ Names, _ *File) { p[1].DeviceIDs = []string{"d1"} },
		"a device named":  func(_ []api.Policy, n Names, _ *File) { n.Devices["d4"] = "new" },
		"another file":    func(_ []api.Policy, _ Names, f *File) { f.Policies[1].LeaseSeconds++ },
	} {
		policies, n := account()
		f := decode(t, example)
		change(policies, n, &f)
		got, err := Make(f, policies, n, false)
		if err != nil || got.Base == first.Base && got.Target == first.Target {
			t.Errorf("%s is not noticed: %v", name, err)
		}
	}
	slices.Reverse(policies)
	if got, _ := Make(f, policies, n, false); got.Base != first.Base {
		t.Error("the order of the database counts")
	}
}

// What is exported and applied changes nothing, whatever the policies say and however things are named.
func TestExport_appliedChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		policies, n := drawAccount(t)
		var b bytes.Buffer
		if err := Encode(&b, Export("Example", policies, n)); err != nil {
			t.Fatal(err)
		}
		f, err := Decode(&b)
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		for _, remove := range []bool{false, true} {
			plan, err := Make(f, policies, n, remove)
			if err != nil || !plan.Empty() || len(plan.Kept) > 0 {
				t.Fatalf("plan %+v: %v\n%s", plan, err, b.String())
			}
		}
	})
}

// Every member of the interface's policy is in a file, so that one which is added there is kept.
func TestExport_keepsEveryMember(t *testing.T) {
	t.Parallel()
	var p api.Policy
	filled(reflect.ValueOf(&p).Elem())
	p.Default = false
	var b bytes.Buffer
	if err := Encode(&b, Export("Example", []api.Policy{p}, Names{Images: Register{}, Devices: Register{}})); err != nil {
		t.Fatal(err)
	}
	f, err := Decode(&b)
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if stored := policyset.Stored(p); !reflect.DeepEqual(stored, p) {
		t.Errorf("the database keeps %+v\nof            %+v", stored, p)
	}
	got := f.Policies[0].Policy
	p.ID, p.Version, p.ImageIDs, p.DeviceIDs = "", 0, nil, nil
	if !reflect.DeepEqual(got, p) {
		t.Errorf("written %+v\nread    %+v", p, got)
	}
}

// filled gives every member a value that is not its zero.
func filled(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			filled(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			filled(v.Index(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		filled(v.Elem())
	case reflect.String:
		v.SetString("text: #1")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Bool:
		v.SetBool(true)
	default:
		panic(fmt.Sprintf("teach this test about %s", v.Type()))
	}
}

func drawAccount(t *rapid.T) ([]api.Policy, Names) {
	name := rapid.OneOf(rapid.SampledFrom([]string{"a", "data", "a [id x]", "true", "12", "- x", "#", "null", "é: {}", "'\"", "2026-01-01", "x: &y", "[]", "\t\n", " \n a", "a\n\n", "a\nb", "\n", "a\tb", "\u0085", "\u2028x", "- - a", "? b", "%c", "a #b", "@", "`"}),
		rapid.StringN(1, 12, 40))
	n := Names{Images: Register{}, Devices: Register{}}
	for i := range rapid.IntRange(0, 6).Draw(t, "things") {
		n.Images[fmt.Sprintf("i%d", i)] = name.Draw(t, "image")
		n.Devices[fmt.Sprintf("d%d", i)] = name.Draw(t, "device")
	}
	facts := policy.Facts()
	var policies []api.Policy
	taken := map[string]bool{}
	used := map[string]bool{}
	for i := range rapid.IntRange(1, 4).Draw(t, "policies") {
		p := api.Policy{ID: fmt.Sprintf("p%d", i), Name: fmt.Sprintf("P%d%s", i, strings.ToValidUTF8(name.Draw(t, "name"), "")), Description: name.Draw(t, "description"), Rules: []api.Rule{},
			OnMatch: api.ActionManual, OnFailure: api.ActionManual, LeaseSeconds: rapid.Int64Range(10, 9999).Draw(t, "lease"), HeartbeatSeconds: 1,
			RevokeMode: api.RevokeSuspend, ImageIDs: []string{}, DeviceIDs: []string{}, Version: int64(i), Default: i == 0}
		if len([]rune(p.Name)) > 32 || used[fold(p.Name)] {
			p.Name = fmt.Sprintf("P%d", i)
		}
		used[fold(p.Name)] = true
		for range rapid.IntRange(0, 3).Draw(t, "rules") {
			fact := rapid.SampledFrom(facts).Draw(t, "fact")
			r := api.Rule{Fact: fact.Name, Match: api.MatchAll, Conditions: []api.Condition{{Operator: fact.Operators[0], Value: fact.Example}}}
			if fact.Subject != nil {
				r.Subject = fact.Subject.Example
			}
			p.Rules = append(p.Rules, r)
		}
		if len(policy.Validate(p)) > 0 {
			p.Rules = []api.Rule{}
		}
		for id := range n.Images {
			if rapid.Bool().Draw(t, "has") {
				p.ImageIDs = append(p.ImageIDs, id)
			}
		}
		for id := range n.Devices {
			if !taken[id] && rapid.Bool().Draw(t, "holds") {
				p.DeviceIDs, taken[id] = append(p.DeviceIDs, id), true
			}
		}
		policies = append(policies, policyset.Stored(p))
	}
	return policies, n
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{example, "", "format: 1\npolicies: []\n", "a: &x [*x]", "? [a]\n: b", "<<: {a: b}", "format: 1\npolicies: [{name: a, rules: null}]", "format: 1", "format: 1\npolicies: [{name: a}]"} {
		f.Add([]byte(seed))
	}
	policies, n := account()
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Decode(bytes.NewReader(b))
		if err != nil {
			return
		}
		plan, err := Make(file, policies, n, true)
		if err == nil && plan.Base == "" {
			t.Error("a plan without a base")
		}
		var out bytes.Buffer
		if err := Encode(&out, file); err != nil {
			t.Fatal(err)
		}
		again, err := Decode(&out)
		if err != nil || !reflect.DeepEqual(again, file) {
			t.Errorf("written and read again: %v\n%+v\n%+v", err, file, again)
		}
	})
}
