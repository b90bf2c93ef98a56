package keyrequest

import (
	"flag"
	"os"
	"strings"
	"testing"

	"keyward/broker/internal/inventory"
)

var update = flag.Bool("update", false, "write the tables into docs/agent-protocol.md")

// The page that people build agents from shows the machines as they are.
func TestDocs_showTheMachinesAsTheyAre(t *testing.T) {
	const path = "../../../docs/agent-protocol.md"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := string(page)
	for name, table := range map[string]string{"key-request-machine": Table(), "device-machine": inventory.Table()} {
		begin := "<!-- " + name + " -->\n"
		before, rest, ok := strings.Cut(want, begin)
		_, after, closed := strings.Cut(rest, "<!-- end -->")
		if !ok || !closed {
			t.Fatalf("%s has no place for the %s", path, name)
		}
		want = before + begin + table + "<!-- end -->" + after
	}
	if want == string(page) {
		return
	}
	if !*update {
		t.Fatalf("%s shows other machines than the code has; run: go test ./broker/internal/keyrequest -run TestDocs -update", path)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
