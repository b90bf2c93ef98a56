package httpapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"keyward/broker/api"
)

// fullRequest and fullHeartbeat have every member that is read in one pass.
func fullRequest() api.KeyRequest {
	now := time.Date(2026, 11, 22, 10, 0, 0, 123456789, time.UTC)
	return api.KeyRequest{DeviceID: "d", Nonce: "n", PublicKey: []byte{1, 2, 3, 4}, Time: now, Deliver: true,
		Run: &api.Run{ID: "run", BootID: "boot", Generation: 7},
		Evidence: api.Evidence{Nonce: "n", CollectedAt: now.In(time.FixedZone("", 3600)), Facts: []api.Fact{
			{Name: api.FactOSName, Values: []string{`Größe <&> "x" \ ` + "\u2028\t"}, Source: "os-release", Grade: api.GradeSelfReported, At: now},
			{Name: api.FactTCPPorts, Values: []string{}, Source: "procfs", Grade: api.GradeSelfReported, At: now},
			{Name: api.FactScriptText, Subject: "backup", Source: "script", Grade: api.GradeSelfReported, At: now, Missing: "it failed"}},
			TPM:   &api.TPMEvidence{Quote: []byte{1}, Signature: []byte{2}, PCRs: []api.TPMPCR{{Index: 7, Value: []byte{3}}}, Nonce: "n"},
			Cloud: &api.CloudDocument{Kind: api.CloudAWS, Document: []byte{4, 5}}}}
}

func fullHeartbeat() api.Heartbeat {
	r := fullRequest()
	return api.Heartbeat{Evidence: r.Evidence, Devices: []api.DeviceFacts{{DeviceID: "d", Facts: r.Evidence.Facts}},
		Held: []api.HeldKey{{RequestID: "r", DeviceID: "d", Mounted: true}, {RequestID: "s"}}, Time: r.Time, Check: true, Run: r.Run}
}

// theirs is huma's and encoding/json's word on a body.
func theirs[T any](t testing.TB) func(body []byte) (T, bool) {
	t.Helper()
	registry := huma.NewMapRegistry("#/", huma.DefaultSchemaNamer)
	schema := registry.Schema(reflect.TypeFor[T](), false, "")
	return func(body []byte) (out T, ok bool) {
		var parsed any
		if json.Unmarshal(body, &parsed) != nil {
			return out, false
		}
		var res huma.ValidateResult
		huma.Validate(registry, schema, huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer, parsed, &res)
		return out, len(res.Errors) == 0 && json.Unmarshal(body, &out) == nil
	}
}

// differ fails when one pass accepts what they refuse, or reads something else.
func differ[T any](t testing.TB, mine, theirs func([]byte) (T, bool), body []byte) (accepted bool) {
	t.Helper()
	got, ok := mine(body)
	if !ok {
		return false
	}
	if want, fine := theirs(body); !fine || !reflect.DeepEqual(got, want) {
		t.Errorf("read in one pass (huma and encoding/json accept it: %v)\n%s\nas   %+v\nwant %+v", fine, body, got, want)
	}
	return true
}

func bodyOf(t testing.TB, v any) []byte {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestOnePass_readsWhatAgentsSend(t *testing.T) {
	t.Parallel()
	requests, heartbeats := onePass[api.KeyRequest](), onePass[api.Heartbeat]()
	request, heartbeat := bodyOf(t, fullRequest()), bodyOf(t, fullHeartbeat())
	small := api.Heartbeat{Held: []api.HeldKey{}, Time: fullRequest().Time}
	if !differ(t, requests, theirs[api.KeyRequest](t), request) || !differ(t, heartbeats, theirs[api.Heartbeat](t), heartbeat) ||
		!differ(t, heartbeats, theirs[api.Heartbeat](t), bodyOf(t, small)) {
		t.Error("what an agent sends is not read in one pass")
	}
	var spaced any
	if err := json.Unmarshal(request, &spaced); err != nil {
		t.Fatal(err)
	}
	indented, err := json.MarshalIndent(spaced, " ", "\t") // and with the members in another order
	if err != nil {
		t.Fatal(err)
	}
	if !differ(t, requests, theirs[api.KeyRequest](t), append(indented, "\r\n "...)) {
		t.Error("white space and another order of members are not read in one pass")
	}
}

// Every value of a body is taken away, given twice, given another name, and given values that do not belong there.
func TestOnePass_acceptsNothingThatHumaRefuses(t *testing.T) {
	t.Parallel()
	strange := []string{`null`, `true`, `false`, `0`, `-1`, `-0`, `1.5`, `1e2`, `1E400`, `01`, `+1`, `9007199254740993`, `9223372036854775808`, `""`, `"x"`, `"====" `, `"AQI"`, `"AQIDBA==="`,
		`"AQID\n"`, `"AQ_-"`, "\"\xff\"", "\"\x01\"", `"\ud800"`, `"\u0041"`, `"\x"`, `"` + strings.Repeat("x", 65) + `"`, `"` + strings.Repeat("ß", 64) + `"`,
		`"2026-11-22"`, `"2026-11-22T10:00:00"`, `"2026-11-22T10:00:00,5Z"`, `"2026-11-22T1:00:00Z"`, `"2026-11-22T10:00:00+25:00"`, `"2026-02-30T10:00:00Z"`,
		`"2026-11-22t10:00:00z"`, `[]`, `[null]`, `["x"]`, `[1]`, `[,]`, `["x",]`, `[[]]`, `{}`, `{"x":1}`, `{,}`, `nul`, `tru`, ``, `"`, `[`, `{`}
	check := func(name string, body []byte, differ func(body []byte) bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			for _, changed := range changes(t, body, strange) {
				differ([]byte(changed))
				n++
			}
			if n < 1000 {
				t.Errorf("only %d changes were tried", n)
			}
		})
	}
	mine, other := onePass[api.KeyRequest](), theirs[api.KeyRequest](t)
	check("key request", bodyOf(t, fullRequest()), func(b []byte) bool { return differ(t, mine, other, b) })
	beats, others := onePass[api.Heartbeat](), theirs[api.Heartbeat](t)
	check("heartbeat", bodyOf(t, fullHeartbeat()), func(b []byte) bool { return differ(t, beats, others, b) })
}

// changes are bodies that differ from one in one value or member.
func changes(t testing.TB, body []byte, strange []string) []string {
	var parsed any
	if err := json.Unmarshal(body, &parsed); err != nil {
		t.Fatal(err)
	}
	const here = `"\u0000here"`
	out := []string{string(body) + "x", string(body) + string(body), string(body[:len(body)-1]), "\ufeff" + string(body)}
	// visit replaces each value in turn by a mark, writes everything, and puts the strange values where the mark is.
	var visit func(v any, put func(any), member bool)
	written := func() string { return string(bodyOf(t, parsed)) }
	visit = func(v any, put func(any), member bool) {
		put("\x00here")
		whole := written()
		for _, s := range strange {
			out = append(out, strings.Replace(whole, here, s, 1))
		}
		put(v)
		switch v := v.(type) {
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				value := v[name]
				delete(v, name)
				out = append(out, written())
				for _, other := range []string{strings.ToUpper(name), name + "x", " " + name, ""} {
					v[other] = value
					out = append(out, written())
					delete(v, other)
				}
				v[name] = value
				one := fmt.Sprintf("%s:%s", bodyOf(t, name), bodyOf(t, value))
				for _, more := range []string{one, fmt.Sprintf("%s:%s", bodyOf(t, strings.ToUpper(name)), bodyOf(t, value)), `"x":1`} {
					out = append(out, strings.Replace(written(), one, one+","+more, 1))
				}
				visit(value, func(x any) { v[name] = x }, true)
			}
		case []any:
			for i := range v {
				visit(v[i], func(x any) { v[i] = x }, false)
			}
		}
	}
	visit(parsed, func(x any) { parsed = x }, false)
	return out
}

func FuzzOnePass_KeyRequest(f *testing.F) {
	mine, other := onePass[api.KeyRequest](), theirs[api.KeyRequest](f)
	f.Add(bodyOf(f, fullRequest()))
	f.Add([]byte(`{"device_id":"d","nonce":"n","evidence":{"collected_at":"2026-11-22T10:00:00Z","facts":null},"public_key":"AQ==","time":"2026-11-22T10:00:00Z"}`))
	f.Fuzz(func(t *testing.T, body []byte) { differ(t, mine, other, body) })
}

func FuzzOnePass_Heartbeat(f *testing.F) {
	mine, other := onePass[api.Heartbeat](), theirs[api.Heartbeat](f)
	f.Add(bodyOf(f, fullHeartbeat()))
	f.Add([]byte(`{"evidence":{"collected_at":"2026-11-22T10:00:00Z","facts":[]},"held":null,"time":"2026-11-22T10:00:00Z","run":{"id":"","boot_id":"","generation":0}}`))
	f.Fuzz(func(t *testing.T, body []byte) { differ(t, mine, other, body) })
}

func TestOnePass_refusesTypesThatItCannotCheck(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(){
		"an enumeration": func() {
			onePass[struct {
				A string `json:"a" enum:"x,y"`
			}]()
		},
		"a pattern": func() {
			onePass[struct {
				A string `json:"a" pattern:"^x$"`
			}]()
		},
		"no name": func() { onePass[struct{ A string }]() },
		"an embedded struct": func() {
			onePass[struct {
				api.Run `json:"run"`
			}]()
		},
		"an option": func() {
			onePass[struct {
				A int `json:"a,string"`
			}]()
		},
		"a type that reads itself": func() {
			onePass[struct {
				A json.RawMessage `json:"a"`
			}]()
		},
		"a floating number": func() {
			onePass[struct {
				A float64 `json:"a"`
			}]()
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: a reader was made", name)
				}
			}()
			make()
		}()
	}
}
