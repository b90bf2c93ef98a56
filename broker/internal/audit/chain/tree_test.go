package chain

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyward/broker/api"
)

// mth is the tree's root by the definition of RFC 6962, section 2.1, and no library.
func mth(leaves [][]byte) []byte {
	switch len(leaves) {
	case 0:
		sum := sha256.Sum256(nil)
		return sum[:]
	case 1:
		sum := sha256.Sum256(append([]byte{0}, leaves[0]...))
		return sum[:]
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	sum := sha256.Sum256(append(append([]byte{1}, mth(leaves[:k])...), mth(leaves[k:])...))
	return sum[:]
}

func hashes(records []api.AuditRecord) [][]byte {
	out := make([][]byte, len(records))
	for i, r := range records {
		out[i] = r.Hash
	}
	return out
}

func growTree(t testing.TB, records []api.AuditRecord) *Tree {
	t.Helper()
	tree, err := NewTree(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := tree.Append(r.Hash, nil); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func rootOf(t testing.TB, records []api.AuditRecord) []byte {
	t.Helper()
	root, err := growTree(t, records).Root()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestTree_rootIsThatOfRFC6962(t *testing.T) {
	t.Parallel()
	records := makeLog(t, 40)
	for n := range len(records) + 1 {
		if got, want := rootOf(t, records[:n]), mth(hashes(records[:n])); !bytes.Equal(got, want) {
			t.Errorf("root of %d records %x, want %x", n, got, want)
		}
		half := growTree(t, records[:n/2])
		again, err := NewTree(half.Size(), half.Edge())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records[n/2 : n] {
			if err := again.Append(r.Hash, nil); err != nil {
				t.Fatal(err)
			}
		}
		if got, _ := again.Root(); !bytes.Equal(got, mth(hashes(records[:n]))) {
			t.Errorf("a tree that was continued at %d of %d has another root", n/2, n)
		}
	}
}

// node is a complete node of the tree, by definition.
func node(records []api.AuditRecord, n Node) []byte {
	from, to := n.Covers()
	return mth(hashes(records[from-1 : to-1]))
}

func prove(t testing.TB, key ed25519.PrivateKey, records []api.AuditRecord, plan ProofPlan, p Proof) []byte {
	t.Helper()
	nodes := make([][]byte, len(plan.Nodes))
	for i, n := range plan.Nodes {
		nodes[i] = node(records, n)
	}
	var err error
	if p.Hashes, err = plan.Hashes(nodes); err != nil {
		t.Fatal(err)
	}
	p.Key = key.Public().(ed25519.PublicKey)
	out, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func signTree(t testing.TB, key ed25519.PrivateKey, records []api.AuditRecord) Checkpoint {
	t.Helper()
	last := records[len(records)-1]
	c, err := SignTree(key, account, HeadOf(last), rootOf(t, records), last.At)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func inclusion(t testing.TB, key ed25519.PrivateKey, records []api.AuditRecord, sequence int) []byte {
	t.Helper()
	plan, err := PlanInclusion(int64(sequence), int64(len(records)))
	if err != nil {
		t.Fatal(err)
	}
	return prove(t, key, records, plan, Proof{Record: &records[sequence-1], Checkpoint: signTree(t, key, records)})
}

func consistency(t testing.TB, key ed25519.PrivateKey, records []api.AuditRecord, from int) []byte {
	t.Helper()
	plan, err := PlanConsistency(int64(from), int64(len(records)))
	if err != nil {
		t.Fatal(err)
	}
	earlier := signTree(t, key, records[:from])
	return prove(t, key, records, plan, Proof{From: &earlier, Checkpoint: signTree(t, key, records)})
}

func TestProof_ofEveryRecordAndOfEveryBeginning(t *testing.T) {
	t.Parallel()
	key := testKey(1)
	o := Options{TrustedKey: key.Public().(ed25519.PublicKey)}
	all := makeLog(t, 21)
	for n := 1; n <= len(all); n++ {
		for i := 1; i <= n; i++ {
			r, err := VerifyProof(inclusion(t, key, all[:n], i), o)
			if err != nil || r.Record == nil || r.Record.Sequence != int64(i) || r.To != int64(n) || !r.Trusted || r.AccountID != account {
				t.Fatalf("record %d of %d: %+v, %v", i, n, r, err)
			}
			r, err = VerifyProof(consistency(t, key, all[:n], i), o)
			if err != nil || r.Record != nil || r.From != int64(i) || r.To != int64(n) {
				t.Fatalf("%d records as the beginning of %d: %+v, %v", i, n, r, err)
			}
		}
	}
}

func TestProof_noticesEveryChangedByte(t *testing.T) {
	t.Parallel()
	key := testKey(1)
	o := Options{TrustedKey: key.Public().(ed25519.PublicKey)}
	records := makeLog(t, 11)
	for name, good := range map[string][]byte{"inclusion": inclusion(t, key, records, 5), "consistency": consistency(t, key, records, 6)} {
		for _, mask := range []byte{0x01, 0x20} {
			for i := range good {
				bad := bytes.Clone(good)
				bad[i] ^= mask
				if _, err := VerifyProof(bad, o); err == nil {
					t.Fatalf("%s: byte %d (%q) xor %#x was not noticed", name, i, good[max(0, i-20):min(len(good), i+20)], mask)
				}
			}
		}
		for n := range good {
			if _, err := VerifyProof(good[:n], o); err == nil {
				t.Fatalf("%s: cut to %d bytes was not noticed", name, n)
			}
		}
	}
}

func TestProof_saysWhatIsWrong(t *testing.T) {
	t.Parallel()
	key, other := testKey(1), testKey(2)
	records := makeLog(t, 9)
	rewritten := makeLog(t, 9)
	rewritten[2].Detail = map[string]string{"reason": "another"}
	for i := 2; i < len(rewritten); i++ { // chained again to the end by somebody who has the key
		r, err := Seal(account, HeadOf(rewritten[i-1]), rewritten[i])
		if err != nil {
			t.Fatal(err)
		}
		rewritten[i] = r
	}
	change := func(raw []byte, f func(*Proof)) []byte {
		var p Proof
		if err := json.Unmarshal(raw, &p); err != nil {
			t.Fatal(err)
		}
		f(&p)
		out, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	good := inclusion(t, key, records, 4)
	earlier := signTree(t, key, records[:5])
	for name, c := range map[string]struct {
		proof []byte
		want  string
	}{
		"a log that was rewritten since": {change(consistency(t, key, rewritten, 5), func(p *Proof) { p.From = &earlier }), "it was rewritten"},
		"another broker's":               {inclusion(t, other, records, 4), "did not lead to it"},
		"another record":                 {change(good, func(p *Proof) { p.Record = &records[4] }), "is not in the log"},
		"a record behind the checkpoint": {change(good, func(p *Proof) { r := records[3]; r.Sequence = 99; r.Hash = Hash(account, r); p.Record = &r }), "is not among"},
		"a checkpoint without a tree": {change(good, func(p *Proof) {
			p.Checkpoint, _ = Sign(key, account, HeadOf(records[8]), epoch)
		}), "signs no tree"},
		"a hash too many": {change(good, func(p *Proof) { p.Hashes = append(p.Hashes, p.Hashes[0]) }), "is not in the log"},
		"nothing proved":  {change(good, func(p *Proof) { p.Record = nil }), "is of a record or of an earlier checkpoint"},
		"not a proof":     {[]byte("{}\n"), "is not keyward-audit-proof"},
	} {
		if _, err := VerifyProof(c.proof, Options{TrustedKey: key.Public().(ed25519.PublicKey)}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func rotations(t testing.TB, keys ...ed25519.PrivateKey) []Rotation {
	t.Helper()
	var out []Rotation
	for i := 1; i < len(keys); i++ {
		r, err := Rotate(int64(i), epoch, keys[i-1], keys[i])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestKeys_leadFromEachToTheOther(t *testing.T) {
	t.Parallel()
	a, b, c := testKey(1), testKey(2), testKey(3)
	public := func(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }
	chained := rotations(t, a, b, c)
	keys, err := Keys(public(c), chained)
	if err != nil || len(keys) != 3 || !trusts(keys, public(a)) || !trusts(keys, public(c)) || trusts(keys, public(testKey(4))) || trusts(keys, nil) {
		t.Fatalf("keys %v, %v", keys, err)
	}
	forged := rotations(t, a, b, c)
	forged[1].Old = public(testKey(4))
	swapped := []Rotation{chained[1], chained[0]}
	for name, bad := range map[string]struct {
		current ed25519.PublicKey
		list    []Rotation
	}{
		"one missing": {public(c), chained[1:]}, "the last missing": {public(c), chained[:1]}, "out of order": {public(c), swapped},
		"a changed key": {public(c), forged}, "to another key": {public(b), chained}, "not joined": {public(c), append(rotations(t, a, testKey(5)), chained[1])},
		"no key": {nil, nil},
	} {
		if _, err := Keys(bad.current, bad.list); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// A log that was signed by two keys, one after the other, verifies by either.
func TestVerify_acrossARotationOfTheKey(t *testing.T) {
	t.Parallel()
	old, current := testKey(1), testKey(2)
	records := makeLog(t, 8)
	write := func(from int, keys []Rotation) []byte {
		var out bytes.Buffer
		w, err := NewWriter(&out, current, Range{AccountID: account, First: &records[from], Last: &records[7], Checkpoints: 2, At: epoch,
			Edge: growTree(t, records[:from]).Edge(), Keys: keys})
		for i := from; err == nil && i < len(records); i++ {
			if err = w.Record(records[i]); err != nil {
				break
			}
			switch i {
			case 4:
				err = w.Checkpoint(signTree(t, old, records[:i+1]))
			case 7:
				err = w.Checkpoint(signTree(t, current, records[:i+1]))
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
	keys := rotations(t, old, current)
	for _, from := range []int{0, 3} {
		for _, trusted := range []ed25519.PrivateKey{old, current} {
			r, err := Verify(bytes.NewReader(write(from, keys)), Options{TrustedKey: trusted.Public().(ed25519.PublicKey)})
			if err != nil || r.Checkpoints != 2 || r.Roots != 2 || !r.Trusted {
				t.Errorf("from record %d: %+v, %v", from+1, r, err)
			}
		}
	}
	for name, bad := range map[string][]byte{"without the change of key": write(0, nil), "an edge of another log": bytes.Replace(write(3, keys), []byte(`"edge":["`), []byte(`"edge":["A`), 1)} {
		if _, err := Verify(bytes.NewReader(bad), Options{}); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

// frozenRoot is the root of the 13 records of the golden files.
const frozenRoot = "93703556409961a97110b82b5cc87cf15defef53b2adcfe7bdbaf9c0a579d60b"

// What earlier brokers wrote must verify for ever.
func TestGolden_everyFormatVerifies(t *testing.T) {
	t.Parallel()
	key := testKey(7)
	records := makeLog(t, 13)
	golden := func(name string, made []byte) []byte {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, made, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		stored, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(stored, made) {
			t.Errorf("%s is no longer what is written today: raise the version", name)
		}
		return stored
	}
	trusted := Options{TrustedKey: key.Public().(ed25519.PublicKey)}
	for name, made := range map[string][]byte{"inclusion-v1.json": inclusion(t, key, records, 6), "consistency-v1.json": consistency(t, key, records, 7)} {
		if _, err := VerifyProof(golden(name, made), trusted); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r, err := Verify(bytes.NewReader(golden("log-v2.jsonl", export(t, key, records, 5, 13))), trusted); err != nil || r.Checkpoints != 2 {
		t.Errorf("log-v2.jsonl: %+v, %v", r, err)
	}
	third := golden("log-v3.jsonl", rest(t, key, records, 10, bury(t, key, records, 1, 4), bury(t, key, records, 5, 9)))
	if r, err := Verify(bytes.NewReader(third), trusted); err != nil || r.Records != 4 || len(r.Deleted) != 2 {
		t.Errorf("log-v3.jsonl: %+v, %v", r, err)
	}
	first, err := os.ReadFile(filepath.Join("testdata", "log-v1.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(bytes.NewReader(first), trusted); err != nil || r.Records != 5 || r.Checkpoints != 2 {
		t.Errorf("log-v1.jsonl: %+v, %v", r, err)
	}
	if got := hex.EncodeToString(rootOf(t, records)); got != frozenRoot {
		t.Errorf("root %s, frozen as %s", got, frozenRoot)
	}
}

func FuzzVerifyProof(f *testing.F) {
	key := testKey(7)
	records := makeLog(f, 13)
	f.Add(inclusion(f, key, records, 6))
	f.Add(consistency(f, key, records, 7))
	f.Add([]byte(`{"format":"keyward-audit-proof","version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := VerifyProof(data, Options{TrustedKey: key.Public().(ed25519.PublicKey)})
		if err == nil && (!r.Trusted || r.AccountID != account) {
			t.Errorf("a proof of nobody's was accepted: %+v", r)
		}
	})
}
