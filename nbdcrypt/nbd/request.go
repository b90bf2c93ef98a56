package nbd

import (
	"encoding/binary"
	"fmt"
)

// request is one command, from its header to its reply. Requests belong to a session and are used again.
type request struct {
	flags  uint16
	cmd    uint16
	cookie uint64
	offset uint64
	length uint32

	// buf holds the payload of a write or the data of a reply; nil when there is none.
	buf *buffer
	// data is the part of buf that is the payload, or that goes out with the reply.
	data []byte
	// whole is the WRITE that this is a part of, nil for a request of its own.
	whole *request
	// parts is what is left to do of a WRITE in parts.
	parts partCount
	// sent is how much of a READ has gone out before data.
	sent  uint32
	errno Errno
	// reply is the header of the reply, with an error message when there is one.
	reply    [replyHeadSize]byte
	replyLen int
}

// parse reads a request header, requestHeaderSize bytes.
func (r *request) parse(b []byte) error {
	if magic := binary.BigEndian.Uint32(b); magic != magicRequest {
		return fmt.Errorf("the client sent %#08x where a request begins; it has lost count of its bytes, so it is cut off", magic)
	}
	r.flags = binary.BigEndian.Uint16(b[4:])
	r.cmd = binary.BigEndian.Uint16(b[6:])
	r.cookie = binary.BigEndian.Uint64(b[8:])
	r.offset = binary.BigEndian.Uint64(b[16:])
	r.length = binary.BigEndian.Uint32(b[24:])
	r.buf, r.data, r.sent, r.errno = nil, nil, 0, OK
	return nil
}

// plain says whether r does nothing but move data, so that its time tells how quick the device is.
func (r *request) plain() bool { return r.cmd <= cmdWrite && r.flags&cmdFlagFUA == 0 }

// commandName is how logs call a command.
func commandName(cmd uint16) string {
	if int(cmd) < len(rules) && rules[cmd].name != "" {
		return rules[cmd].name
	}
	return fmt.Sprintf("command %d", cmd)
}
