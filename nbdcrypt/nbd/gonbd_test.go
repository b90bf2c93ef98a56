package nbd

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/backend"
	"github.com/pojntfx/go-nbd/pkg/protocol"
	gonbdserver "github.com/pojntfx/go-nbd/pkg/server"

	"keyward/nbdcrypt/blockdev"
)

// goNBDClient does what go-nbd's client and the kernel behind it do, with go-nbd's structures. The client itself hands
// the connection to /dev/nbdX between the handshake and the first request.
type goNBDClient struct{ *client }

func (c goNBDClient) send(v any) {
	c.t.Helper()
	if err := binary.Write(c.conn, binary.BigEndian, v); err != nil {
		c.t.Fatal(err)
	}
}

func (c goNBDClient) receive(v any) {
	c.t.Helper()
	if err := binary.Read(c.conn, binary.BigEndian, v); err != nil {
		c.t.Fatal(err)
	}
}

// handshake is the sequence in go-nbd's client.Connect.
func (c goNBDClient) handshake(name string) (size uint64, block uint32) {
	c.t.Helper()
	var greeting protocol.NegotiationNewstyleHeader
	c.receive(&greeting)
	c.send(uint32(0))
	c.send(protocol.NegotiationOptionHeader{OptionMagic: protocol.NEGOTIATION_MAGIC_OPTION,
		ID: protocol.NEGOTIATION_ID_OPTION_GO, Length: 0})
	c.send(uint32(len(name)))
	c.send([]byte(name))
	c.send(uint16(0))
	for {
		var reply protocol.NegotiationReplyHeader
		c.receive(&reply)
		if reply.Type == protocol.NEGOTIATION_TYPE_REPLY_ACK {
			return size, block
		}
		if reply.Type != protocol.NEGOTIATION_TYPE_REPLY_INFO {
			c.t.Fatalf("go-nbd's client gives up on reply %#x", reply.Type)
		}
		data := c.read(int(reply.Length))
		switch binary.BigEndian.Uint16(data) {
		case protocol.NEGOTIATION_TYPE_INFO_EXPORT:
			size = binary.BigEndian.Uint64(data[2:])
		case protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE:
			block = binary.BigEndian.Uint32(data[6:])
		default:
			if kind := binary.BigEndian.Uint16(data); kind > protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE {
				c.t.Fatalf("go-nbd's client gives up on information %d", kind)
			}
		}
	}
}

func (c goNBDClient) request(kind uint16, off uint64, n int, payload []byte) []byte {
	c.t.Helper()
	c.send(protocol.TransmissionRequestHeader{RequestMagic: protocol.TRANSMISSION_MAGIC_REQUEST, Type: kind,
		Handle: off + 1, Offset: off, Length: uint32(n)})
	if payload != nil {
		c.send(payload)
	}
	var reply protocol.TransmissionReplyHeader
	c.receive(&reply)
	if reply.ReplyMagic != protocol.TRANSMISSION_MAGIC_REPLY || reply.Error != 0 || reply.Handle != off+1 {
		c.t.Fatalf("reply %+v", reply)
	}
	if kind == protocol.TRANSMISSION_TYPE_REQUEST_READ {
		return c.read(n)
	}
	return nil
}

// go-nbd's client reads what it wrote, and what it wrote is synced when it says goodbye: it knows no flush.
func TestGoNBD_clientReadsWhatItWrote(t *testing.T) {
	t.Parallel()
	dev := newCacheDevice(1 << 20)
	srv := newServer(t, Options{Exports: []Export{{Name: "default", Device: dev, Description: "disk"}}})
	c := goNBDClient{connect(t, srv)}
	size, block := c.handshake("default")
	if size != 1<<20 || block < 512 || block > 4096 {
		t.Fatalf("size %d, block size %d: go-nbd's client refuses it", size, block)
	}
	for off := uint64(0); off < size; off += 128 << 10 {
		c.request(protocol.TRANSMISSION_TYPE_REQUEST_WRITE, off, 128<<10, pattern(128<<10, byte(off>>17)))
	}
	for off := uint64(0); off < size; off += 128 << 10 {
		mustEqual(t, "a read", c.request(protocol.TRANSMISSION_TYPE_REQUEST_READ, off, 128<<10, nil), pattern(128<<10, byte(off>>17)))
	}
	c.leave()
	mustEqual(t, "the medium", dev.durable(7*128<<10, 128<<10), pattern(128<<10, 7))
}

// A device of ours behind go-nbd's server, read by the same client.
func TestGoNBD_serverServesOurDevice(t *testing.T) {
	t.Parallel()
	dev := newCacheDevice(1 << 20)
	near, far := socketPair(t)
	ended := make(chan error, 1)
	go func() {
		defer far.Close()
		ended <- gonbdserver.Handle(far, []*gonbdserver.Export{{Name: "default", Backend: ToBackend(dev)}}, nil)
	}()
	c := goNBDClient{&client{t: t, conn: near, ended: ended}}
	c.patience()
	if size, _ := c.handshake("default"); size != 1<<20 {
		t.Fatalf("size %d", size)
	}
	c.request(protocol.TRANSMISSION_TYPE_REQUEST_WRITE, 4096, 4096, pattern(4096, 3))
	mustEqual(t, "a read", c.request(protocol.TRANSMISSION_TYPE_REQUEST_READ, 4096, 4096, nil), pattern(4096, 3))
	c.leave()
	mustEqual(t, "the medium", dev.durable(4096, 4096), pattern(4096, 3))
}

// go-nbd's backends behind our server: what makes its own server fail is an error here.
func TestGoNBD_backendsBehindOurServer(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]backend.Backend{"memory": backend.NewMemoryBackend(make([]byte, 1<<20)),
		"file": backend.NewFileBackend(f)} {
		dev, err := FromBackend(b)
		if err != nil {
			t.Fatal(err)
		}
		c := connect(t, newServer(t, Options{Exports: []Export{{Device: dev}}})).enter("", true)
		c.mustDo(cmdWrite, cmdFlagFUA, 512, 4096, pattern(4096, 3))
		mustEqual(t, name, c.mustDo(cmdRead, 0, 512, 4096, nil), pattern(4096, 3))
		c.mustDo(cmdWriteZeroes, 0, 0, 1<<20, nil)
		mustEqual(t, name, c.mustDo(cmdRead, 0, 0, 8192, nil), make([]byte, 8192))
		c.leave()
		for _, off := range []int64{-1, 1<<20 - 100, 1 << 20, math.MaxInt64} {
			if _, err := dev.ReadAt(make([]byte, 512), off); !errors.Is(err, blockdev.ErrOutOfRange) {
				t.Errorf("%s: read at %d: %v", name, off, err)
			}
			if _, err := dev.WriteAt(make([]byte, 512), off); !errors.Is(err, blockdev.ErrOutOfRange) {
				t.Errorf("%s: write at %d: %v", name, off, err)
			}
		}
		if dev.Size() != 1<<20 || dev.Close() != nil {
			t.Errorf("%s: size %d", name, dev.Size())
		}
	}
	f.Close()
	if _, err := FromBackend(backend.NewFileBackend(f)); err == nil {
		t.Error("a closed file was accepted")
	}
}
