package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestQuietest_keepsTheHalfWithTheFewestNeighbours(t *testing.T) {
	t.Parallel()
	windows := []measured{{mibs: 1, others: 1.5}, {mibs: 2, others: 0.1}, {mibs: 3, others: 0.9}, {mibs: 4, others: 0}, {mibs: 5, others: 1.1}}
	got := quietest(windows)
	if len(got) != 3 || got[0].mibs != 4 || got[1].mibs != 2 || got[2].mibs != 3 {
		t.Errorf("kept %+v", got)
	}
	if windows[0].mibs != 1 {
		t.Error("the windows themselves were sorted")
	}
	if m := medianOf(got, func(m measured) float64 { return m.mibs }); m != 3 {
		t.Errorf("median %v of 4, 2 and 3", m)
	}
	if len(quietest(nil)) != 0 || median(nil) != 0 {
		t.Error("of nothing there is something")
	}
}

func TestReadBack_noticesWhatChanged(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	files := []sourceFile{{"a", []byte("one")}, {"sub/b", []byte("two")}}
	written, err := copyIn(root, files)
	if err != nil {
		t.Fatal(err)
	}
	read, err := readBack(root, files)
	if err != nil || read.files != 2 || read.bytes != 6 || written.files != 2 || written.bytes != 6 {
		t.Fatalf("wrote %+v, read %+v, %v", written, read, err)
	}
	if err := os.WriteFile(filepath.Join(root, "sub/b"), []byte("twe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readBack(root, files); err == nil {
		t.Error("a changed file was accepted")
	}
}

func TestOthers_countThisProcess(t *testing.T) {
	t.Parallel()
	before := busyTime()
	if before == 0 {
		t.Skip("no /proc/stat here")
	}
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
	}
	if spent := busyTime() - before; spent <= 0 {
		t.Errorf("the machine was idle for %v while this test ran", spent)
	}
}

// A file system that stops half-way while it is mounted is taken down in reverse order, once.
func TestMounted_closeUndoesInReverse(t *testing.T) {
	t.Parallel()
	var order []string
	m := &mounted{}
	for _, name := range []string{"image", "loop", "mount"} {
		m.undo = append(m.undo, func() error { order = append(order, name); return nil })
	}
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
	if len(order) != 3 || order[0] != "mount" || order[2] != "image" {
		t.Errorf("undone in the order %v", order)
	}
}
