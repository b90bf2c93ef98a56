package chain

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

// export writes records with a checkpoint behind each whose sequence is in signed.
func export(t testing.TB, key ed25519.PrivateKey, records []api.AuditRecord, signed ...int64) []byte {
	t.Helper()
	r := Range{AccountID: account, AccountName: "Example & Co", Checkpoints: int64(len(signed)), At: epoch.Add(time.Hour)}
	if len(records) > 0 {
		r.First, r.Last = &records[0], &records[len(records)-1]
	}
	var out bytes.Buffer
	w, err := NewWriter(&out, key, r)
	for i := 0; err == nil && i < len(records); i++ {
		if err = w.Record(records[i]); err != nil {
			break
		}
		for _, s := range signed {
			if s == records[i].Sequence {
				var c Checkpoint
				if c, err = Sign(key, account, HeadOf(records[i]), records[i].At); err == nil {
					err = w.Checkpoint(c)
				}
			}
		}
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestVerify_acceptsWhatTheBrokerWrote(t *testing.T) {
	t.Parallel()
	key := testKey(1)
	public := key.Public().(ed25519.PublicKey)
	records := makeLog(t, 6)
	report, err := Verify(bytes.NewReader(export(t, key, records, 3, 6)), Options{TrustedKey: public})
	if err != nil {
		t.Fatal(err)
	}
	if report.Records != 6 || report.First != 1 || report.Last != 6 || report.Checkpoints != 2 || report.SignedTo != 6 || !report.Trusted ||
		report.AccountID != account || report.AccountName != "Example & Co" || report.KeyID != KeyID(public) || !bytes.Equal(report.Head, records[5].Hash) {
		t.Errorf("report %+v", report)
	}
	report, err = Verify(bytes.NewReader(export(t, key, records[2:5], 4)), Options{})
	if err != nil || report.First != 3 || report.Last != 5 || report.Trusted {
		t.Errorf("a part of the log: %+v, %v", report, err)
	}
	if report, err = Verify(bytes.NewReader(export(t, key, nil)), Options{TrustedKey: public}); err != nil || report.Records != 0 {
		t.Errorf("an empty log: %+v, %v", report, err)
	}
}

func TestVerify_noticesEveryChangedByte(t *testing.T) {
	t.Parallel()
	key := testKey(1)
	good := export(t, key, makeLog(t, 4), 2, 4)
	if _, err := Verify(bytes.NewReader(good), Options{}); err != nil {
		t.Fatal(err)
	}
	for _, mask := range []byte{0x01, 0x20, 0x80} { // the smallest change, a change of case, a byte that is no ASCII
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= mask
			_, err := Verify(bytes.NewReader(bad), Options{})
			var p *Problem
			if !errors.As(err, &p) {
				t.Fatalf("byte %d (%q) xor %#x: %v", i, good[max(0, i-20):min(len(good), i+20)], mask, err)
			}
			if line := int64(bytes.Count(good[:i], []byte("\n")) + 1); p.Line < line || p.Line > line+1 {
				t.Fatalf("byte %d is in line %d, reported in line %d: %v", i, line, p.Line, err)
			}
		}
	}
}

func TestVerify_noticesEveryCut(t *testing.T) {
	t.Parallel()
	good := export(t, testKey(1), makeLog(t, 3), 2)
	for n := range good {
		var p *Problem
		if _, err := Verify(bytes.NewReader(good[:n]), Options{}); !errors.As(err, &p) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestVerify_saysWhatIsWrongAndWhere(t *testing.T) {
	t.Parallel()
	key, other := testKey(1), testKey(2)
	records := makeLog(t, 5)
	lines := func(b []byte) [][]byte { return bytes.SplitAfter(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) }
	whole := func() [][]byte {
		l := lines(export(t, key, records, 3, 5))
		l[len(l)-1] = append(l[len(l)-1], '\n')
		return l
	}
	// whole: 0 header, 1-3 records 1-3, 4 checkpoint 3, 5-6 records 4-5, 7 checkpoint 5.
	rewritten := func() []api.AuditRecord { // a log whose holder changed record 2 and chained everything anew
		out, head := append([]api.AuditRecord(nil), records[:1]...), HeadOf(records[0])
		for _, r := range records[1:] {
			r.Actor = "user:mallory"
			r, err := Seal(account, head, r)
			if err != nil {
				t.Fatal(err)
			}
			out, head = append(out, r), HeadOf(r)
		}
		return out
	}
	encode := func(l Line) []byte {
		b, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		return append(b, '\n')
	}
	trusted := Options{TrustedKey: key.Public().(ed25519.PublicKey)}
	for name, c := range map[string]struct {
		log      func() [][]byte
		options  Options
		sequence int64
		what     string
	}{
		"changed content": {log: func() [][]byte {
			l := whole()
			l[2] = bytes.Replace(l[2], []byte("user:ann"), []byte("user:bob"), 1)
			return l
		}, sequence: 2, what: "hash does not fit"},
		"missing record":    {log: func() [][]byte { l := whole(); return append(l[:2:2], l[3:]...) }, sequence: 2, what: "missing"},
		"missing first":     {log: func() [][]byte { l := whole(); return append(l[:1:1], l[2:]...) }, sequence: 1, what: "missing"},
		"two exchanged":     {log: func() [][]byte { l := whole(); l[1], l[2] = l[2], l[1]; return l }, sequence: 1, what: "missing"},
		"repeated":          {log: func() [][]byte { l := whole(); return append(l[:3:3], l[2:]...) }, sequence: 2, what: "repeated"},
		"cut before signed": {log: func() [][]byte { return whole()[:3] }, sequence: 3, what: "end is missing"},
		"cut last":          {log: func() [][]byte { return whole()[:6] }, sequence: 5, what: "end is missing"},
		"no checkpoint":     {log: func() [][]byte { l := whole(); return append(l[:4:4], l[5:]...) }, sequence: 5, what: "checkpoints"},
		"record missing before checkpoint": {log: func() [][]byte { l := whole(); return append(l[:3:3], l[4:]...) },
			sequence: 3, what: "stands where record 3 was due"},
		"added": {log: func() [][]byte {
			r, err := Seal(account, HeadOf(records[4]), records[0])
			if err != nil {
				t.Fatal(err)
			}
			return append(whole(), encode(Line{Record: &r}))
		}, sequence: 6, what: "was added"},
		"rewritten under the old header": {log: func() [][]byte {
			l := whole()
			for i, r := range rewritten() {
				at := i + 1
				if r.Sequence > 3 {
					at++
				}
				l[at] = encode(Line{Record: &r})
			}
			return l
		}, sequence: 3, what: "rewritten"},
		"rewritten and signed by a forger": {log: func() [][]byte { return [][]byte{export(t, other, rewritten(), 5)} }, options: trusted, what: "forged"},
		"no header":                        {log: func() [][]byte { return whole()[1:] }, what: "beginning is missing"},
		"two headers":                      {log: func() [][]byte { l := whole(); return append([][]byte{l[0]}, l...) }, sequence: 1, what: "second header"},
		"empty":                            {log: func() [][]byte { return nil }, what: "empty"},
		"finer time": {log: func() [][]byte {
			l := whole()
			l[1] = bytes.Replace(l[1], []byte(".123456Z"), []byte(".1234567Z"), 1)
			return l
		}, sequence: 1, what: "microseconds"},
		"shifted time": {log: func() [][]byte {
			l := whole()
			l[1] = bytes.Replace(l[1], []byte("T10:00:00.123456Z"), []byte("T11:00:00.123456+01:00"), 1)
			return l
		}, sequence: 1, what: "UTC"},
		"unknown field": {log: func() [][]byte {
			l := whole()
			l[1] = bytes.Replace(l[1], []byte(`{"record":{`), []byte(`{"record":{"approved":true,`), 1)
			return l
		}, sequence: 1, what: "not as a broker writes"},
	} {
		_, err := Verify(bytes.NewReader(bytes.Join(c.log(), nil)), c.options)
		var p *Problem
		if !errors.As(err, &p) {
			t.Errorf("%s: not noticed (%v)", name, err)
			continue
		}
		if p.Sequence != c.sequence || !strings.Contains(p.Error(), c.what) {
			t.Errorf("%s: %v; want record %d and %q", name, p, c.sequence, c.what)
		}
	}
	if _, err := Verify(bytes.NewReader(bytes.Join(whole(), nil)), trusted); err != nil {
		t.Errorf("the unchanged log is refused: %v", err)
	}
}

func TestVerify_readingErrorIsNoVerdict(t *testing.T) {
	t.Parallel()
	good := export(t, testKey(1), makeLog(t, 3))
	broken := errors.New("disk")
	_, err := Verify(io.MultiReader(bytes.NewReader(good[:len(good)/2]), failing{broken}), Options{})
	var p *Problem
	if !errors.Is(err, broken) || errors.As(err, &p) {
		t.Errorf("got %v", err)
	}
}

func TestVerify_endlessLineIsRefused(t *testing.T) {
	t.Parallel()
	_, err := Verify(io.LimitReader(endless{}, 1<<40), Options{})
	var p *Problem
	if !errors.As(err, &p) || !strings.Contains(p.What, "longer") {
		t.Errorf("got %v", err)
	}
}

func TestWriter_refusesALogWithHoles(t *testing.T) {
	t.Parallel()
	key, records := testKey(1), makeLog(t, 4)
	start := func() *Writer {
		w, err := NewWriter(io.Discard, key, Range{AccountID: account, First: &records[0], Last: &records[3], At: epoch})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	if w := start(); w.Record(records[1]) == nil {
		t.Error("a missing record was written over")
	}
	w := start()
	if err := w.Record(records[0]); err != nil {
		t.Fatal(err)
	}
	if w.Close() == nil {
		t.Error("closed an export that lacks records")
	}
	changed := records[1]
	changed.Previous = make([]byte, 32)
	if w.Record(changed) == nil {
		t.Error("a broken link was exported")
	}
	c, err := Sign(key, account, HeadOf(records[2]), epoch)
	if err != nil {
		t.Fatal(err)
	}
	if w.Checkpoint(c) == nil {
		t.Error("a checkpoint came before its record")
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func FuzzVerify(f *testing.F) {
	good := export(f, testKey(1), makeLog(f, 3), 2)
	f.Add(good)
	f.Add(good[:len(good)/2])
	buried := makeLog(f, 3)
	f.Add(rest(f, testKey(2), buried, 2, bury(f, testKey(2), buried, 1, 1)))
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"header":null,"record":null}` + "\n"))
	trusted := Options{TrustedKey: testKey(1).Public().(ed25519.PublicKey)}
	f.Fuzz(func(t *testing.T, data []byte) {
		// Without the key nobody writes another log that verifies.
		if _, err := Verify(bytes.NewReader(data), trusted); err == nil && !bytes.Equal(data, good) {
			t.Fatalf("a forged log was accepted: %q", data)
		}
	})
}
