package nbd

// rule says what a command may look like. The errors are those of nbdkit, so that clients tested against it see
// nothing new; checks are made in the order of the fields.
type rule struct {
	name string
	// flags are the command flags that the command knows; another one is EINVAL.
	flags uint16
	// writes is a command that an export which is read-only refuses with EPERM.
	writes bool
	// advertised is the transmission flag that announces the command; sent without it, the command is EINVAL.
	advertised uint16
	// ranged is a command on [offset, offset+length). An empty range, one that leaves the export and one that is not
	// aligned to the negotiated minimum block size are refused; offset and length of the others must be 0.
	ranged bool
	// outside is the error for a range that is empty or leaves the export.
	outside Errno
	// buffered is a command whose data is held in memory: longer than the maximum block size is ENOMEM.
	buffered bool
	// payload is a command that has length bytes behind its header; they are skipped when the command is refused.
	payload bool
}

// rules is the whole table: what is not in it is EINVAL. DISC is not validated: it has no reply.
var rules = [...]rule{
	cmdRead:  {name: "READ", flags: cmdFlagFUA | cmdFlagDF, ranged: true, outside: EINVAL, buffered: true},
	cmdWrite: {name: "WRITE", flags: cmdFlagFUA, writes: true, ranged: true, outside: ENOSPC, buffered: true, payload: true},
	cmdDisc:  {name: "DISC"},
	cmdFlush: {name: "FLUSH", flags: cmdFlagFUA, advertised: flagSendFlush},
	cmdTrim:  {name: "TRIM", flags: cmdFlagFUA, writes: true, advertised: flagSendTrim, ranged: true, outside: EINVAL},
	cmdCache: {name: "CACHE", flags: cmdFlagFUA, advertised: flagSendCache, ranged: true, outside: EINVAL},
	cmdWriteZeroes: {name: "WRITE_ZEROES", flags: cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero, writes: true,
		advertised: flagSendWriteZeroes, ranged: true, outside: ENOSPC},
	cmdBlockStatus: {name: "BLOCK_STATUS", flags: cmdFlagFUA | cmdFlagReqOne, ranged: true, outside: EINVAL},
}

// flagNeeds are command flags that are EINVAL unless the handshake announced them.
var flagNeeds = [...]struct{ flag, advertised uint16 }{
	{cmdFlagFUA, flagSendFUA},
	{cmdFlagDF, flagSendDF},
	{cmdFlagFastZero, flagSendFastZero},
}

// terms are what one connection has agreed on with the server.
type terms struct {
	size uint64
	// flags are the transmission flags sent to the client.
	flags uint16
	// minBlock is 1 for a client that did not negotiate block sizes.
	minBlock, maxBlock uint32
	structured         bool
	baseAllocation     bool
}

// validate returns the error that r deserves, or OK.
func (t *terms) validate(r *request) Errno {
	if int(r.cmd) >= len(rules) {
		return EINVAL
	}
	c := &rules[r.cmd]
	switch {
	case c.writes && t.flags&flagReadOnly != 0:
		return EPERM
	case t.flags&c.advertised != c.advertised:
		return EINVAL
	case r.cmd == cmdBlockStatus && !t.baseAllocation:
		return EINVAL
	case r.flags&^c.flags != 0:
		return EINVAL
	}
	for _, need := range flagNeeds {
		if r.flags&need.flag != 0 && t.flags&need.advertised == 0 {
			return EINVAL
		}
	}
	length := uint64(r.length)
	if !c.ranged {
		if r.offset != 0 || length != 0 {
			return EINVAL
		}
		return OK
	}
	switch {
	case length == 0, r.offset > t.size, length > t.size-r.offset:
		return c.outside
	case (r.offset|length)&uint64(t.minBlock-1) != 0:
		return EINVAL
	case c.buffered && r.length > t.maxBlock:
		return ENOMEM
	}
	return OK
}
