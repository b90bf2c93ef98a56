package backup

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"keyward/broker/internal/store"
)

func sample(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := newWriter(&b)
	at := time.Date(2026, 11, 22, 5, 0, 0, 123456000, time.UTC)
	for _, err := range []error{
		w.write(line{Header: &Header{Format: Format, Version: Version, CreatedAt: at, RootKeyID: "r"}}),
		w.file(File{Name: "ca.pem", Mode: 0o644, Data: []byte("pem")}),
		w.tableBegins(store.DumpTable{Name: "things", Columns: []store.DumpColumn{{Name: "a", Kind: "text"}, {Name: "b", Kind: "bytes"}, {Name: "c", Kind: "time"},
			{Name: "d", Kind: "integer"}, {Name: "e", Kind: "bool"}}}),
		w.row([]any{"x\n\"é", []byte{0, 255}, at, int64(1) << 62, true}),
		w.row([]any{"", []byte{}, nil, int64(-1), false}),
		w.row([]any{nil, nil, nil, nil, nil}),
		w.end(7),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestRead_givesBackEveryValueAsItWas(t *testing.T) {
	t.Parallel()
	var rows [][]any
	h, e, err := read(bytes.NewReader(sample(t)), Visitor{Row: func(_ store.DumpTable, v []any) error { rows = append(rows, v); return nil }})
	at := time.Date(2026, 11, 22, 5, 0, 0, 123456000, time.UTC)
	want := [][]any{{"x\n\"é", []byte{0, 255}, at, int64(1) << 62, true}, {"", []byte{}, nil, int64(-1), false}, {nil, nil, nil, nil, nil}}
	if err != nil || !reflect.DeepEqual(rows, want) || h.RootKeyID != "r" || e.Schema != 7 || e.Rows["things"] != 3 {
		t.Errorf("%v\n%v\n%+v %+v", err, rows, h, e)
	}
}

func TestRead_refuses(t *testing.T) {
	t.Parallel()
	good := string(sample(t))
	lines := strings.SplitAfter(good, "\n")
	for name, c := range map[string]struct{ data, says string }{
		"nothing":               {"", "no end"},
		"no end":                {strings.Join(lines[:len(lines)-2], ""), "no end"},
		"half a line":           {good[:len(good)-5], "EOF"},
		"no header":             {strings.Join(lines[1:], ""), "header"},
		"a row too few":         {strings.Join(append(append([]string{}, lines[:3]...), lines[4:]...), ""), "not those that were written"},
		"something behind":      {good + "x", "follows"},
		"another format":        {strings.Replace(good, `"version":1`, `"version":2`, 1), "version 2"},
		"a row without a table": {lines[0] + lines[3], "does not fit"},
		"another kind":          {strings.Replace(good, `"kind":"integer"`, `"kind":"bool"`, 1), "is no bool"},
		"an unknown member":     {strings.Replace(good, `"mode"`, `"mood"`, 1), "not understood"},
		"no JSON":               {"{", "EOF"},
	} {
		if _, _, err := read(strings.NewReader(c.data), Visitor{}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want something of %q", name, err, c.says)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := map[string]int64{}
		_, e, err := read(bytes.NewReader(data), Visitor{Row: func(d store.DumpTable, v []any) error {
			if len(v) != len(d.Columns) {
				t.Fatal("a row does not fit its table")
			}
			n[d.Name]++
			return nil
		}})
		for name := range e.Rows {
			if err == nil && e.Rows[name] != n[name] {
				t.Fatalf("%d rows of %s, and %d were passed", e.Rows[name], name, n[name])
			}
		}
	})
}
