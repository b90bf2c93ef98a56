package machine

import (
	"errors"
	"strings"
	"testing"
)

type (
	state string
	event string
)

var (
	warm = When("it is warm", func(degrees int) bool { return degrees > 20 })
	dry  = When("it is dry", func(degrees int) bool { return degrees%2 == 0 })
)

var door = Table[state, event, int]{
	Subject: "door", Stay: "(unchanged)", Help: map[event]string{"open": "only a closed door opens"},
	Rows: []Row[state, event, int]{
		{From: []state{"closed"}, Event: "open", When: []Guard[int]{warm, dry}, To: "wide open", Effects: []Effect{Do("greet"), Audit("door.opened")}},
		{From: []state{"closed"}, Event: "open", When: []Guard[int]{warm}, To: "open", Effects: []Effect{Notify("door-opened")}},
		{From: []state{"open", "wide open"}, Event: "knock", To: "(unchanged)"},
		{From: []state{""}, Event: "build", To: "closed"},
		{From: []state{"closed"}, Event: "burn", To: ""},
	},
}

func TestFind_takesTheFirstRowWhoseGuardsHold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from    state
		event   event
		degrees int
		want    state
	}{
		{"closed", "open", 22, "wide open"}, {"closed", "open", 23, "open"}, {"wide open", "knock", 0, "wide open"},
		{"open", "knock", 0, "open"}, {"", "build", 0, "closed"}, {"closed", "burn", 0, ""},
	} {
		row, err := door.Find(c.from, c.event, c.degrees)
		if err != nil || row.To != c.want {
			t.Errorf("%s in %q at %d: %q, %v; want %q", c.event, c.from, c.degrees, row.To, err, c.want)
		}
	}
}

func TestFind_refusesWithReasonAndHelp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from    state
		event   event
		degrees int
		want    string
	}{
		{"closed", "open", 3, `"open" is refused: the door is closed, and this needs: it is warm and it is dry; or: it is warm (only a closed door opens)`},
		{"open", "open", 22, `"open" is refused: the door is open (only a closed door opens)`},
		{"", "open", 22, `"open" is refused: the door is new (only a closed door opens)`},
		{"closed", "sing", 22, `"sing" is refused: the door is closed`},
		{"(unchanged)", "knock", 22, `"knock" is refused: the door is (unchanged)`},
	} {
		row, err := door.Find(c.from, c.event, c.degrees)
		var refused *Refused
		if !errors.As(err, &refused) || err.Error() != c.want || row.Effects != nil {
			t.Errorf("%s in %q: %v", c.event, c.from, err)
		}
	}
}

func TestAccepts_looksAtNoCircumstances(t *testing.T) {
	t.Parallel()
	if !door.Accepts("closed", "open") || door.Accepts("open", "open") || door.Accepts("closed", "sing") {
		t.Error("Accepts does not follow the rows")
	}
}

func TestMarkdown_hasALinePerRow(t *testing.T) {
	t.Parallel()
	got := strings.Split(strings.TrimSpace(door.Markdown()), "\n")
	want := []string{
		"| state | event | if | next | effects |", "|---|---|---|---|---|",
		"| closed | open | it is warm and it is dry | wide open | greet, audit(door.opened) |",
		"| closed | open | it is warm | open | notify(door-opened) |",
		"| open, wide open | knock |  | (unchanged) |  |",
		"| (new) | build |  | closed |  |",
		"| closed | burn |  | (gone) |  |",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}
