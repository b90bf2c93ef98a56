package nbd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

func twoExports(t *testing.T) (*Server, fullDevice) {
	dev := newFullDevice(1 << 20)
	return newServer(t, Options{Exports: []Export{
		{Name: "disk", Description: "the disk", Device: dev, MinBlock: 512, MultiConn: true},
		{Name: "small", Device: newTestDevice(8192), ReadOnly: true},
	}}), dev
}

// infos are the information replies in a list, by type.
func infos(replies []rep) map[uint16][]byte {
	m := map[uint16][]byte{}
	for _, r := range replies {
		if r.kind == repInfo {
			m[binary.BigEndian.Uint16(r.data)] = r.data[2:]
		}
	}
	return m
}

func TestHandshake_infoAndGo(t *testing.T) {
	t.Parallel()
	srv, _ := twoExports(t)
	c := connect(t, srv).hello(clientFixedNewstyle | clientNoZeroes)
	got := infos(c.mustAck(c.option(optInfo, goData("disk", infoName, infoDescription, infoBlockSize, 77))))
	want := flagHasFlags | flagSendFlush | flagSendFUA | flagSendWriteZeroes | flagSendFastZero | flagSendCache | flagMultiConn
	if size := binary.BigEndian.Uint64(got[infoExport]); size != 1<<20 {
		t.Errorf("size %d", size)
	}
	if flags := binary.BigEndian.Uint16(got[infoExport][8:]); flags != want {
		t.Errorf("transmission flags %#x, want %#x", flags, want)
	}
	if string(got[infoName]) != "disk" || string(got[infoDescription]) != "the disk" {
		t.Errorf("name %q, description %q", got[infoName], got[infoDescription])
	}
	sizes := binary.BigEndian.AppendUint32(nil, 512)
	sizes = binary.BigEndian.AppendUint32(sizes, 4096)
	sizes = binary.BigEndian.AppendUint32(sizes, 32<<20)
	if !bytes.Equal(got[infoBlockSize], sizes) {
		t.Errorf("block sizes %x, want %x", got[infoBlockSize], sizes)
	}
	// A client that does not ask is not held to the minimum, and DF comes with structured replies.
	c.mustAck(c.option(optStructuredReply, nil))
	got = infos(c.mustAck(c.option(optGo, goData("disk"))))
	if minimum := binary.BigEndian.Uint32(got[infoBlockSize]); minimum != 1 {
		t.Errorf("minimum block size %d for a client that does not negotiate it", minimum)
	}
	if flags := binary.BigEndian.Uint16(got[infoExport][8:]); flags != want|flagSendDF {
		t.Errorf("transmission flags %#x, want %#x", flags, want|flagSendDF)
	}
	c.leave()
}

func TestHandshake_exportName(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		flags uint32
		zeros int
	}{{clientFixedNewstyle, 124}, {clientFixedNewstyle | clientNoZeroes, 0}, {0, 124}} {
		srv, _ := twoExports(t)
		c := connect(t, srv).hello(tc.flags)
		c.write(append(optionHeader(optExportName, 5), "small"...))
		b := c.read(10 + tc.zeros)
		if size := binary.BigEndian.Uint64(b); size != 8192 {
			t.Errorf("size %d", size)
		}
		if flags := binary.BigEndian.Uint16(b[8:]); flags&flagReadOnly == 0 {
			t.Errorf("transmission flags %#x of a read-only export", flags)
		}
		mustEqual(t, "the padding", b[10:], make([]byte, tc.zeros))
		mustEqual(t, "a read", c.mustDo(cmdRead, 0, 1, 3, nil), make([]byte, 3))
		c.leave()
	}
}

func TestHandshake_listsExportsByName(t *testing.T) {
	t.Parallel()
	srv, _ := twoExports(t)
	c := connect(t, srv).hello(clientFixedNewstyle)
	got := c.mustAck(c.option(optList, nil))
	want := []string{"\x00\x00\x00\x04diskthe disk", "\x00\x00\x00\x05small", ""}
	for i, r := range got {
		if string(r.data) != want[i] {
			t.Errorf("reply %d: %q, want %q", i, r.data, want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d replies", len(got))
	}
	c.mustAck(c.option(optAbort, nil))
	c.readEnd()
	if err := c.wait(); err != nil {
		t.Error(err)
	}
}

func TestHandshake_refusesAndGoesOn(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxNameLength+1)
	for _, tc := range []struct {
		name string
		id   uint32
		data []byte
		want uint32
	}{
		{"unknown option", 99, []byte("abc"), repErrUnsup},
		{"extended headers", 11, nil, repErrUnsup},
		{"TLS without a certificate", optStartTLS, nil, repErrUnsup},
		{"list with data", optList, []byte{0}, repErrInvalid},
		{"structured replies with data", optStructuredReply, []byte{0}, repErrInvalid},
		{"unknown export", optGo, goData("nope"), repErrUnknown},
		{"no default export among several", optInfo, goData(""), repErrUnknown},
		{"name of 4097 bytes", optGo, goData(long), repErrInvalid},
		{"name that claims 4 GiB", optGo, []byte{0xff, 0xff, 0xff, 0xff, 0, 0}, repErrInvalid},
		{"name longer than the option", optGo, []byte{0, 0, 0, 9, 'd', 0, 0}, repErrInvalid},
		{"info request count past the end", optInfo, append([]byte{0, 0, 0, 4}, "disk\xff\xff"...), repErrInvalid},
		{"bytes after the last request", optInfo, append(goData("disk"), 0), repErrInvalid},
		{"empty info", optInfo, nil, repErrInvalid},
		{"contexts before structured replies", optSetMetaContext, metaData("disk", baseAllocation), repErrInvalid},
		{"query count past the end", optListMetaContext, append([]byte{0, 0, 0, 4}, "disk\xff\xff\xff\xff"...), repErrInvalid},
		{"contexts of an unknown export", optListMetaContext, metaData("nope"), repErrUnknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv, _ := twoExports(t)
			c := connect(t, srv).hello(clientFixedNewstyle)
			got := c.option(tc.id, tc.data)
			if len(got) != 1 || got[0].kind != tc.want || len(got[0].data) == 0 {
				t.Fatalf("replies %+v, want %#x with a message", got, tc.want)
			}
			c.mustAck(c.option(optGo, goData("disk")))
			c.leave()
		})
	}
}

func TestHandshake_closesOn(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		flags uint32
		bytes []byte
	}{
		{"client flags that were not offered", 1 << 5, nil},
		{"a wrong option magic", 1, bytes.Repeat([]byte{7}, 16)},
		{"an export name of 4 GiB", 1, optionHeader(optExportName, 0xffffffff)},
		{"an export name of 64 KiB", 1, append(optionHeader(optExportName, 65536), make([]byte, 65536)...)},
		{"an unknown export name", 1, append(optionHeader(optExportName, 4), "nope"...)},
		{"more options than anybody needs", 1, bytes.Repeat(optionHeader(optStructuredReply, 0), maxOptions+1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv, _ := twoExports(t)
			c := connect(t, srv).hello(tc.flags)
			// The server may close before it has read everything.
			_, _ = c.conn.Write(tc.bytes)
			if err := c.wait(); err == nil {
				t.Error("the server ended without an error")
			}
		})
	}
}

func TestHandshake_optionTooLongIsAnsweredBeforeClosing(t *testing.T) {
	t.Parallel()
	srv, _ := twoExports(t)
	c := connect(t, srv).hello(clientFixedNewstyle)
	c.write(optionHeader(optInfo, 0xffffffff))
	if got := c.replies(optInfo); got[0].kind != repErrTooBig {
		t.Errorf("reply %#x, want %#x", got[0].kind, repErrTooBig)
	}
	c.readEnd()
}

func TestHandshake_emptyNameMeansTheOnlyExport(t *testing.T) {
	t.Parallel()
	srv := newServer(t, Options{Exports: []Export{{Name: "disk", Device: newTestDevice(4096)}}})
	c := connect(t, srv).enter("", true)
	mustEqual(t, "the disk", c.mustDo(cmdRead, 0, 0, 4096, nil), make([]byte, 4096))
	if a := c.do(cmdBlockStatus, 0, 0, 4096, nil); a.errno != OK {
		t.Errorf("block status: error %d", a.errno)
	}
	c.leave()
}

func TestHandshake_metaContexts(t *testing.T) {
	t.Parallel()
	srv, _ := twoExports(t)
	context := "\x00\x00\x00\x01base:allocation"
	for _, tc := range []struct {
		id      uint32
		queries []string
		want    bool
	}{
		{optListMetaContext, nil, true},
		{optListMetaContext, []string{"base:"}, true},
		{optListMetaContext, []string{"qemu:dirty-bitmap", "x"}, false},
		{optSetMetaContext, nil, false},
		{optSetMetaContext, []string{"base:"}, false},
		{optSetMetaContext, []string{"x:y", baseAllocation, baseAllocation}, true},
	} {
		c := connect(t, srv).hello(clientFixedNewstyle)
		c.mustAck(c.option(optStructuredReply, nil))
		got := c.mustAck(c.option(tc.id, metaData("disk", tc.queries...)))
		if found := len(got) == 2 && string(got[0].data) == context; found != tc.want || len(got) > 2 {
			t.Errorf("option %d, queries %q: %+v", tc.id, tc.queries, got)
		}
		c.structured = true
		c.mustAck(c.option(optGo, goData("disk")))
		chosen := tc.want && tc.id == optSetMetaContext
		if a := c.do(cmdBlockStatus, 0, 0, 4096, nil); (a.errno == OK) != chosen {
			t.Errorf("option %d, queries %q: block status error %d", tc.id, tc.queries, a.errno)
		}
		c.leave()
	}
}

func TestHandshake_contextsBelongToTheirExport(t *testing.T) {
	t.Parallel()
	srv, _ := twoExports(t)
	c := connect(t, srv).hello(clientFixedNewstyle)
	c.structured = true
	c.mustAck(c.option(optStructuredReply, nil))
	c.mustAck(c.option(optSetMetaContext, metaData("disk", baseAllocation)))
	c.mustAck(c.option(optGo, goData("small")))
	if a := c.do(cmdBlockStatus, 0, 0, 4096, nil); a.errno != EINVAL {
		t.Errorf("block status with another export's context: error %d, want EINVAL", a.errno)
	}
	c.leave()
}

// go-nbd's client claims that its GO option is empty and then sends its data; a client that really sends an empty one
// gets its answer.
func TestHandshake_goOptionOfLengthZero(t *testing.T) {
	t.Parallel()
	srv, dev := twoExports(t)
	copy(dev.data, "first bytes")

	c := connect(t, srv)
	c.read(18)
	c.write(make([]byte, 4))
	send := func(v any) {
		if err := binary.Write(c.conn, binary.BigEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	send(protocol.NegotiationOptionHeader{OptionMagic: magicOption, ID: optGo})
	send(uint32(4))
	send([]byte("disk"))
	send(uint16(0))
	got := infos(c.mustAck(c.replies(optGo)))
	// go-nbd's client takes the preferred size for the kernel's block size, which must be 512 to 4096.
	if preferred := binary.BigEndian.Uint32(got[infoBlockSize][4:]); preferred != 4096 {
		t.Errorf("preferred block size %d", preferred)
	}
	mustEqual(t, "a read", c.mustDo(cmdRead, 0, 0, 11, nil), []byte("first bytes"))
	c.leave()

	for _, next := range [][]byte{nil, optionHeader(optList, 0)} {
		c = connect(t, srv).hello(clientFixedNewstyle)
		c.write(append(optionHeader(optGo, 0), next...))
		if got := c.replies(optGo); got[0].kind != repErrInvalid {
			t.Errorf("reply %#x to an empty GO, want %#x", got[0].kind, repErrInvalid)
		}
		if next != nil {
			c.mustAck(c.replies(optList))
		}
		c.mustAck(c.option(optGo, goData("disk")))
		c.leave()
	}
}

// The time limit is for the whole handshake: one byte at a time does not prolong it.
func TestHandshake_slowLorisIsCutOff(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		send []byte
	}{
		{"says nothing", nil},
		{"sends a byte each second", append([]byte{0, 0, 0, 1}, optionHeader(optInfo, 4000)...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t, Options{HandshakeTimeout: 10 * time.Second,
					Exports: []Export{{Device: newTestDevice(4096)}}})
				near, far := net.Pipe()
				start := time.Now()
				ended := make(chan error, 1)
				go func() { ended <- srv.ServeConn(t.Context(), far) }()
				go func() { _, _ = io.Copy(io.Discard, near) }()
				for i := 0; ; i++ {
					b := byte(0)
					if i < len(tc.send) {
						b = tc.send[i]
					}
					if tc.send == nil {
						break
					}
					if _, err := near.Write([]byte{b}); err != nil {
						break
					}
					time.Sleep(time.Second)
				}
				if err := <-ended; err == nil {
					t.Error("no error")
				}
				if took := time.Since(start); took < 10*time.Second || took > 12*time.Second {
					t.Errorf("cut off after %v, want 10 s", took)
				}
				near.Close()
			})
		})
	}
}

func TestExport_refused(t *testing.T) {
	t.Parallel()
	dev := newTestDevice(1 << 20)
	for _, tc := range []struct {
		export Export
		want   string
	}{
		{Export{}, "no device"},
		{Export{Name: strings.Repeat("n", 4097), Device: dev}, "longer than 4096"},
		{Export{Name: "\xff", Device: dev}, "not UTF-8"},
		{Export{Device: dev, MinBlock: 513}, "power of two"},
		{Export{Device: dev, MinBlock: 128 << 10}, "power of two up to 65536"},
		{Export{Device: newTestDevice(1000), MinBlock: 512}, "not a multiple of the minimum"},
		{Export{Device: dev, MinBlock: 4096, PreferredBlock: 512}, "preferred block size 512"},
		{Export{Device: dev, MaxBlock: 2048}, "maximum block size 2048"},
		{Export{Device: dev, MaxBlock: 65 << 20}, "maximum block size 68157440"},
		{Export{Device: dev, MaxBlock: 48 << 20}, "memory budget"},
	} {
		budget := int64(48 << 20)
		if _, err := NewServer(Options{MemoryBudget: budget, Exports: []Export{tc.export}}); err == nil ||
			!strings.Contains(err.Error(), tc.want) {
			t.Errorf("NewServer: %v, want %q", err, tc.want)
		}
		srv := newServer(t, Options{MemoryBudget: budget})
		a, b := net.Pipe()
		if err := srv.ServeTransmission(t.Context(), a, &tc.export); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("ServeTransmission: %v, want %q", err, tc.want)
		}
		b.Close()
	}
}

func TestExport_transmissionFlags(t *testing.T) {
	t.Parallel()
	plain, full := newTestDevice(4096), newFullDevice(4096)
	base := flagHasFlags | flagSendFlush | flagSendFUA | flagSendCache
	for _, tc := range []struct {
		export Export
		want   uint16
	}{
		{Export{Device: plain}, base | flagSendWriteZeroes},
		{Export{Device: plain, AllowTrim: true}, base | flagSendWriteZeroes},
		{Export{Device: full}, base | flagSendWriteZeroes | flagSendFastZero},
		{Export{Device: full, AllowTrim: true}, base | flagSendWriteZeroes | flagSendFastZero | flagSendTrim},
		{Export{Device: full, MultiConn: true}, base | flagSendWriteZeroes | flagSendFastZero | flagMultiConn},
		{Export{Device: full, AllowTrim: true, ReadOnly: true}, base | flagReadOnly},
	} {
		if got := tc.export.TransmissionFlags(); got != tc.want {
			t.Errorf("%s: %#x, want %#x", fmt.Sprintf("%+v", tc.export)[:40], got, tc.want)
		}
	}
}
