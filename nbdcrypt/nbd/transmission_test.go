package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"keyward/nbdcrypt/blockdev"
)

// Every command, with simple and with structured replies, on a device with all capabilities and on one with none.
func TestTransmission_commands(t *testing.T) {
	t.Parallel()
	for _, structured := range []bool{false, true} {
		for _, full := range []bool{false, true} {
			t.Run(fmt.Sprintf("structured=%v/capabilities=%v", structured, full), func(t *testing.T) {
				t.Parallel()
				mem := newTestDevice(1 << 20)
				var dev blockdev.Device = mem
				if full {
					dev = fullDevice{mem}
				}
				srv := newServer(t, Options{Exports: []Export{{Name: "disk", Device: dev, AllowTrim: true}}})
				c := connect(t, srv).enter("disk", structured)
				data := pattern(10000, 1)
				c.mustDo(cmdWrite, 0, 3, 10000, data)
				mustEqual(t, "read after write", c.mustDo(cmdRead, 0, 3, 10000, nil), data)
				c.mustDo(cmdFlush, 0, 0, 0, nil)
				c.mustDo(cmdWrite, cmdFlagFUA, 1<<20-512, 512, data[:512])
				mustEqual(t, "the last sector", c.mustDo(cmdRead, cmdFlagFUA, 1<<20-512, 512, nil), data[:512])
				c.mustDo(cmdCache, 0, 0, 1<<20, nil)
				c.mustDo(cmdWriteZeroes, 0, 4096, 600000, nil)
				mustEqual(t, "zeroes", c.mustDo(cmdRead, 0, 4096, 600000, nil), make([]byte, 600000))
				mustEqual(t, "before the zeroes", c.mustDo(cmdRead, 0, 3, 4093, nil), data[:4093])
				c.mustDo(cmdWriteZeroes, cmdFlagNoHole|cmdFlagFUA, 0, 4096, nil)
				mustEqual(t, "zeroes without a hole", c.mustDo(cmdRead, 0, 0, 4096, nil), make([]byte, 4096))
				want := EINVAL
				if full {
					want = OK
				}
				if a := c.do(cmdTrim, cmdFlagFUA, 0, 4096, nil); a.errno != want {
					t.Errorf("TRIM: error %d, want %d", a.errno, want)
				}
				if a := c.do(cmdWriteZeroes, cmdFlagFastZero, 0, 4096, nil); a.errno != want {
					t.Errorf("WRITE_ZEROES with FAST_ZERO: error %d, want %d", a.errno, want)
				}
				want = EINVAL
				if structured {
					want = OK
				}
				if a := c.do(cmdRead, cmdFlagDF, 0, 4096, nil); a.errno != want {
					t.Errorf("READ with DF: error %d, want %d", a.errno, want)
				}
				if a := c.do(cmdBlockStatus, cmdFlagReqOne, 0, 4096, nil); a.errno != want {
					t.Errorf("BLOCK_STATUS: error %d, want %d", a.errno, want)
				}
				c.leave()
			})
		}
	}
}

// A read is one OFFSET_DATA chunk, and an error a chunk with a message, once structured replies are agreed on.
func TestTransmission_structuredReplies(t *testing.T) {
	t.Parallel()
	srv := newServer(t, Options{Exports: []Export{{Device: newFullDevice(1 << 20)}}})
	c := connect(t, srv).enter("", true)
	c.send(cmdRead, 0, 7, 4096, 512, nil)
	b := c.read(structuredHeaderSize + 8 + 512)
	want := appendChunk(nil, true, chunkOffsetData, 7, 8+512)
	want = binary.BigEndian.AppendUint64(want, 4096)
	mustEqual(t, "the chunk's header", b[:28], want)
	a := c.do(cmdRead, 0, 1<<20, 1, nil)
	if a.chunk != chunkError || a.errno != EINVAL || a.message != EINVAL.Error() {
		t.Errorf("%+v, want an error chunk with a message", a)
	}
	c.leave()
}

// The errors that the protocol lets a server answer, command by command.
func TestTransmission_refusals(t *testing.T) {
	t.Parallel()
	const size, large = 1 << 20, 64 << 10
	payload := pattern(large+4096, 9)
	for _, tc := range []struct {
		name   string
		cmd    uint16
		flags  uint16
		off    uint64
		length uint32
		want   Errno
		// readOnly is what a read-only export answers, where that differs.
		readOnly Errno
	}{
		{"read nothing", cmdRead, 0, 0, 0, EINVAL, 0},
		{"read unaligned offset", cmdRead, 0, 1, 512, EINVAL, 0},
		{"read unaligned length", cmdRead, 0, 0, 511, EINVAL, 0},
		{"read across the end", cmdRead, 0, size - 512, 1024, EINVAL, 0},
		{"read at the end", cmdRead, 0, size, 512, EINVAL, 0},
		{"read at an offset that overflows", cmdRead, 0, 1<<64 - 512, 1024, EINVAL, 0},
		{"read at a negative offset", cmdRead, 0, 1 << 63, 512, EINVAL, 0},
		{"read over the maximum", cmdRead, 0, 0, large + 512, ENOMEM, 0},
		{"read 4 GiB", cmdRead, 0, 0, 0xfffffe00, EINVAL, 0},
		{"read with DF and no structured replies", cmdRead, cmdFlagDF, 0, 512, EINVAL, 0},
		{"read with an unknown flag", cmdRead, 1 << 9, 0, 512, EINVAL, 0},
		{"read with a flag for others", cmdRead, cmdFlagReqOne, 0, 512, EINVAL, 0},
		{"write nothing", cmdWrite, 0, 0, 0, ENOSPC, EPERM},
		{"write unaligned", cmdWrite, 0, 512, 100, EINVAL, EPERM},
		{"write across the end", cmdWrite, 0, size - 512, 1024, ENOSPC, EPERM},
		{"write over the maximum", cmdWrite, 0, 0, large + 4096, ENOMEM, EPERM},
		{"write with an unknown flag", cmdWrite, 1 << 15, 0, 512, EINVAL, EPERM},
		{"write with NO_HOLE", cmdWrite, cmdFlagNoHole, 0, 512, EINVAL, EPERM},
		{"flush with a range", cmdFlush, 0, 512, 512, EINVAL, 0},
		{"flush with an unknown flag", cmdFlush, 1 << 4, 0, 0, EINVAL, 0},
		{"trim that is not allowed", cmdTrim, 0, 0, 512, EINVAL, EPERM},
		{"cache past the end", cmdCache, 0, size, 512, EINVAL, 0},
		{"zeroes past the end", cmdWriteZeroes, 0, size - 512, 1024, ENOSPC, EPERM},
		{"zeroes for 4 GiB", cmdWriteZeroes, 0, 0, 0xfffffe00, ENOSPC, EPERM},
		{"zeroes unaligned", cmdWriteZeroes, 0, 0, 513, EINVAL, EPERM},
		{"zeroes with DF", cmdWriteZeroes, cmdFlagDF, 0, 512, EINVAL, EPERM},
		{"block status without a context", cmdBlockStatus, 0, 0, 512, EINVAL, 0},
		{"resize", 8, 0, 0, 512, EINVAL, 0},
		{"command 65535", 65535, 0xffff, 0, 0xffffffff, EINVAL, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dev := newFullDevice(size)
			dev.record = true
			srv := newServer(t, Options{Exports: []Export{
				{Name: "rw", Device: dev, MinBlock: 512, MaxBlock: large},
				{Name: "ro", Device: dev, MinBlock: 512, MaxBlock: large, ReadOnly: true},
			}})
			for name, want := range map[string]Errno{"rw": tc.want, "ro": max(tc.readOnly, 0)} {
				if want == 0 {
					want = tc.want
				}
				c := connect(t, srv).enter(name, false, infoBlockSize)
				var body []byte
				if tc.cmd == cmdWrite {
					body = payload[:tc.length]
				}
				if a := c.do(tc.cmd, tc.flags, tc.off, tc.length, body); a.errno != want {
					t.Errorf("%s: error %d, want %d", name, a.errno, want)
				}
				// The stream is still in step.
				mustEqual(t, "a read afterwards", c.mustDo(cmdRead, 0, 0, 512, nil), make([]byte, 512))
				c.leave()
			}
			if log := dev.log(); len(log) != 0 {
				t.Errorf("the device saw %q", log)
			}
		})
	}
}

// What the device's errors become on the wire, for each command, and that the connection survives them.
func TestTransmission_deviceErrors(t *testing.T) {
	t.Parallel()
	wrap := func(err error) error { return fmt.Errorf("disk /secret/path: %w", err) }
	for _, tc := range []struct {
		err         error
		read, write Errno
	}{
		{errors.New("medium error"), EIO, EIO},
		{io.ErrUnexpectedEOF, EIO, EIO},
		{wrap(blockdev.ErrOutOfRange), EINVAL, ENOSPC},
		{wrap(blockdev.ErrReadOnly), EPERM, EPERM},
		{wrap(blockdev.ErrNoSpace), ENOSPC, ENOSPC},
		{wrap(blockdev.ErrClosed), ESHUTDOWN, ESHUTDOWN},
		{wrap(syscall.ENOSPC), ENOSPC, ENOSPC},
		{wrap(syscall.EDQUOT), ENOSPC, ENOSPC},
		{wrap(syscall.ENOMEM), ENOMEM, ENOMEM},
		{wrap(syscall.EROFS), EPERM, EPERM},
		{wrap(syscall.EIO), EIO, EIO},
	} {
		for _, structured := range []bool{false, true} {
			dev := newFullDevice(1 << 20)
			dev.hook = func(string, int64, int64) error { return tc.err }
			srv := newServer(t, Options{Exports: []Export{{Device: dev, AllowTrim: true}}})
			c := connect(t, srv).enter("", structured)
			for _, cmd := range []uint16{cmdRead, cmdWrite, cmdTrim, cmdWriteZeroes, cmdCache, cmdFlush, cmdBlockStatus} {
				want, length, body := tc.read, uint32(4096), []byte(nil)
				switch cmd {
				case cmdWrite:
					want, body = tc.write, make([]byte, 4096)
				case cmdTrim, cmdWriteZeroes:
					want = tc.write
				case cmdFlush:
					length = 0
				case cmdBlockStatus:
					if !structured {
						continue
					}
				}
				a := c.do(cmd, 0, 0, length, body)
				if a.errno != want {
					t.Errorf("%s, %v: error %d, want %d", commandName(cmd), tc.err, a.errno, want)
				}
				if strings.Contains(string(a.data), "secret") {
					t.Errorf("%s: the client is told %q", commandName(cmd), a.data)
				}
			}
			c.send(cmdDisc, 0, 0, 0, 0, nil)
			if err := c.wait(); !errors.Is(err, tc.err) {
				t.Errorf("the connection ended with %v, want the failed sync of its writes: %v", err, tc.err)
			}
		}
	}
}

func TestTransmission_syncErrorFailsFUAAndFlush(t *testing.T) {
	t.Parallel()
	dev := newFullDevice(1 << 20)
	dev.hook = func(op string, _, _ int64) error {
		if op == "sync" {
			return syscall.EIO
		}
		return nil
	}
	srv := newServer(t, Options{Exports: []Export{{Device: dev, AllowTrim: true}}})
	c := connect(t, srv).enter("", false)
	c.mustDo(cmdWrite, 0, 0, 512, make([]byte, 512))
	for _, cmd := range []uint16{cmdWrite, cmdTrim, cmdWriteZeroes} {
		var body []byte
		if cmd == cmdWrite {
			body = make([]byte, 512)
		}
		if a := c.do(cmd, cmdFlagFUA, 0, 512, body); a.errno != EIO {
			t.Errorf("%s with FUA: error %d, want EIO", commandName(cmd), a.errno)
		}
	}
	if a := c.do(cmdFlush, 0, 0, 0, nil); a.errno != EIO {
		t.Errorf("FLUSH: error %d, want EIO", a.errno)
	}
	c.send(cmdDisc, 0, 0, 0, 0, nil)
	if err := c.wait(); !errors.Is(err, syscall.EIO) {
		t.Errorf("the connection ended with %v, want the failed sync of its writes", err)
	}
}

// A device that reports fewer bytes than asked, without an error, must not let old memory out.
func TestTransmission_shortReadIsEIO(t *testing.T) {
	t.Parallel()
	srv := newServer(t, Options{Exports: []Export{{Device: shortDevice{newTestDevice(1 << 20)}}}})
	c := connect(t, srv).enter("", false)
	if a := c.do(cmdRead, 0, 0, 4096, nil); a.errno != EIO {
		t.Errorf("read: error %d, want EIO", a.errno)
	}
	if a := c.do(cmdWrite, 0, 0, 4096, make([]byte, 4096)); a.errno != EIO {
		t.Errorf("write: error %d, want EIO", a.errno)
	}
	if a := c.do(cmdWriteZeroes, 0, 0, 4096, nil); a.errno != EIO {
		t.Errorf("zeroes: error %d, want EIO", a.errno)
	}
	c.leave()
}

type shortDevice struct{ *testDevice }

func (d shortDevice) ReadAt(p []byte, off int64) (int, error)  { return len(p) / 2, nil }
func (d shortDevice) WriteAt(p []byte, off int64) (int, error) { return len(p) / 2, nil }

// WRITE_ZEROES deallocates only where TRIM is allowed and the client does not object.
func TestTransmission_writeZeroesKinds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		trim  bool
		flags uint16
		want  string
	}{
		{false, 0, "zero 0+4096"},
		{false, cmdFlagNoHole, "zero 0+4096"},
		{true, 0, "zero-unmap 0+4096"},
		{true, cmdFlagNoHole, "zero 0+4096"},
		{true, cmdFlagFastZero, "zero-unmap 0+4096"},
	} {
		dev := newFullDevice(1 << 20)
		dev.record = true
		c := connect(t, newServer(t, Options{Exports: []Export{{Device: dev, AllowTrim: tc.trim}}})).enter("", false)
		c.mustDo(cmdWriteZeroes, tc.flags, 0, 4096, nil)
		if log := dev.log(); len(log) != 1 || log[0] != tc.want {
			t.Errorf("trim %v, flags %#x: %q, want %q", tc.trim, tc.flags, log, tc.want)
		}
		c.leave()
	}
}

func TestTransmission_writeZeroesWithoutACheapWay(t *testing.T) {
	t.Parallel()
	dev := slowZeroer{newTestDevice(1 << 20)}
	copy(dev.data, pattern(1<<20, 3))
	c := connect(t, newServer(t, Options{Exports: []Export{{Device: dev}}})).enter("", true)
	if a := c.do(cmdWriteZeroes, cmdFlagFastZero, 0, 1<<20, nil); a.errno != ENOTSUP {
		t.Errorf("FAST_ZERO: error %d, want ENOTSUP", a.errno)
	}
	mustEqual(t, "the device after ENOTSUP", dev.content(0, 1<<20), pattern(1<<20, 3))
	c.mustDo(cmdWriteZeroes, 0, 1, 1<<20-2, nil)
	want := make([]byte, 1<<20)
	want[0], want[1<<20-1] = pattern(1<<20, 3)[0], pattern(1<<20, 3)[1<<20-1]
	mustEqual(t, "the device", dev.content(0, 1<<20), want)
	c.leave()
}

// Random writes and reads of every size on four connections at once, each on its own part, against a model.
func TestTransmission_manyInFlightKeepTheirData(t *testing.T) {
	t.Parallel()
	const part = 1 << 20
	dev := newFullDevice(4 * part)
	srv := newServer(t, Options{MaxInFlight: 8, MemoryBudget: 4 << 20,
		Exports: []Export{{Device: dev, MultiConn: true, MaxBlock: 256 << 10}}})
	var all sync.WaitGroup
	for i := range 4 {
		c := connect(t, srv).enter("", i%2 == 0)
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			model := make([]byte, part)
			base := uint64(i * part)
			for range 60 {
				// A burst of requests that do not overlap, answered in any order.
				var slots []int
				for range 12 {
					slots = append(slots, len(slots))
				}
				rnd.Shuffle(len(slots), func(a, b int) { slots[a], slots[b] = slots[b], slots[a] })
				const slot = part / 12
				type expected struct {
					off, n int
					read   bool
				}
				wanted := map[uint64]expected{}
				for _, k := range slots {
					off := k*slot + rnd.IntN(slot/2)
					n := 1 + rnd.IntN(slot/2-1)
					if rnd.IntN(3) == 0 {
						n = 1 + rnd.IntN(4096)
					}
					e := expected{off, n, rnd.IntN(2) == 0}
					cookie := rnd.Uint64()
					wanted[cookie] = e
					if e.read {
						c.send(cmdRead, 0, cookie, base+uint64(off), uint32(n), nil)
						continue
					}
					copy(model[off:off+n], pattern(n, byte(rnd.Uint32())))
					c.send(cmdWrite, 0, cookie, base+uint64(off), uint32(n), model[off:off+n])
				}
				for len(wanted) > 0 {
					head := c.read(16)
					cookie := binary.BigEndian.Uint64(head[8:])
					e, ok := wanted[cookie]
					if !ok {
						t.Errorf("unknown cookie %#x", cookie)
						return
					}
					delete(wanted, cookie)
					if binary.BigEndian.Uint32(head) == magicStructured {
						c.read(12)
					} else if errno := binary.BigEndian.Uint32(head[4:]); errno != 0 {
						t.Errorf("error %d", errno)
					}
					if e.read && !bytes.Equal(c.read(e.n), model[e.off:e.off+e.n]) {
						t.Errorf("wrong data at %d+%d", e.off, e.n)
					}
				}
			}
			mustEqual(t, "the part", dev.content(int(base), part), model)
			c.leave()
		})
	}
	all.Wait()
	if s := srv.Stats(); s.InFlight != 0 || s.BufferBytes != 0 {
		t.Errorf("left over: %+v", s)
	}
}

// Requests that wait in the device do not hold up others, up to the limit, and replies come in the order of completion.
func TestTransmission_slowRequestsAreOvertaken(t *testing.T) {
	t.Parallel()
	dev := newTestDevice(1 << 20)
	gate := make(chan struct{})
	dev.hook = func(op string, off, _ int64) error {
		if off == 0 {
			<-gate
		}
		return nil
	}
	srv := newServer(t, Options{MaxInFlight: 4, Exports: []Export{{Device: dev}}})
	c := connect(t, srv).enter("", false)
	for i := range 3 {
		c.send(cmdRead, 0, uint64(100+i), 0, 512, nil)
	}
	for i := range 100 {
		c.send(cmdRead, 0, uint64(i), 4096, 512, nil)
		if a := c.receive(512); a.cookie != uint64(i) {
			t.Fatalf("cookie %d, want %d", a.cookie, i)
		}
	}
	// A request counts until its reply has left, of which the client may know first.
	eventually(t, "three are in flight", func() bool { return srv.Stats().InFlight == 3 })
	close(gate)
	var got []uint64
	for range 3 {
		got = append(got, c.receive(512).cookie)
	}
	slices.Sort(got)
	if !slices.Equal(got, []uint64{100, 101, 102}) {
		t.Errorf("cookies %d", got)
	}
	c.leave()
}

// The kernel's client: no handshake, simple replies, any alignment.
func TestServeTransmission_asTheKernelDoes(t *testing.T) {
	t.Parallel()
	dev := newFullDevice(1 << 20)
	dev.record = true
	srv := newServer(t, Options{})
	e := &Export{Name: "vol", Device: dev, MinBlock: 4096, MultiConn: true}
	a, b := attach(t, srv, e), attach(t, srv, e)
	a.mustDo(cmdWrite, cmdFlagFUA, 512, 1024, pattern(1024, 5))
	mustEqual(t, "the other socket's view", b.mustDo(cmdRead, 0, 512, 1024, nil), pattern(1024, 5))
	if a := a.do(cmdRead, cmdFlagDF, 0, 512, nil); a.errno != EINVAL || a.chunk != 0 {
		t.Errorf("READ with DF: %+v, want EINVAL in a simple reply", a)
	}
	if s := srv.Stats(); s.Connections != 2 || s.Requests != 3 || s.BytesWritten != 1024 || s.BytesRead != 1024 || s.Errors != 1 {
		t.Errorf("statistics %+v", s)
	}
	a.leave()
	b.leave()
	if s := srv.Stats(); s.Connections != 0 {
		t.Errorf("statistics %+v", s)
	}
}
