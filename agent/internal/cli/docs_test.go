package cli

import (
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"keyward/agent/internal/config"
	"keyward/agent/internal/control"
	"keyward/agent/volume"
)

// What docs/operations/agent.md promises is complete: every command, exit code, configuration key, state and JSON field.
func TestDocs_nameEverythingThatIsPromised(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../docs/operations/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(text)
	want := func(what, word string) {
		if !strings.Contains(doc, word) {
			t.Errorf("docs/operations/agent.md does not name %s %s", what, word)
		}
	}
	a := &app{flags: map[string]*string{}}
	for _, c := range a.root().Commands() {
		if name := c.Name(); name != "help" && name != "completion" {
			want("the command", "`"+name)
		}
	}
	for _, code := range []int{exitOK, exitFailed, exitUsage, exitNotEnrolled, exitNotRunning, exitBroker, exitNotReady, exitHeader} {
		want("the exit code", "| "+strconv.Itoa(code)+" |")
	}
	for _, s := range volume.States {
		want("the state", "| `"+string(s)+"` |")
	}
	var keys func(t reflect.Type, prefix string)
	keys = func(t reflect.Type, prefix string) {
		for i := range t.NumField() {
			f := t.Field(i)
			key := prefix + f.Tag.Get("koanf")
			if f.Type.Kind() == reflect.Struct {
				keys(f.Type, key+".")
				continue
			}
			want("the key", "`"+key+"`")
		}
	}
	keys(reflect.TypeFor[config.Config](), "")
	var fields func(t reflect.Type)
	fields = func(t reflect.Type) {
		for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || !strings.HasPrefix(t.PkgPath(), "keyward/agent") {
			return
		}
		for i := range t.NumField() {
			f := t.Field(i)
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				want("the field", "`"+strings.TrimSuffix(name, "[]"))
			}
			fields(f.Type)
		}
	}
	fields(reflect.TypeFor[control.Status]())
	fields(reflect.TypeFor[inspection]())
}
