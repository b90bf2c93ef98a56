package nbd

import "github.com/pojntfx/go-nbd/pkg/protocol"

// Magic numbers, options, commands and errors of the protocol document. Those that go-nbd's protocol package has are
// taken from there; the others follow the document's numbering ("Values" section).
const (
	magicInit       = protocol.NEGOTIATION_MAGIC_OLDSTYLE // "NBDMAGIC"
	magicOption     = protocol.NEGOTIATION_MAGIC_OPTION   // "IHAVEOPT"
	magicOptReply   = protocol.NEGOTIATION_MAGIC_REPLY
	magicRequest    = protocol.TRANSMISSION_MAGIC_REQUEST
	magicSimple     = protocol.TRANSMISSION_MAGIC_REPLY
	magicStructured = uint32(0x668e33ef)
)

// Handshake flags: the server's, then the client's.
const (
	flagFixedNewstyle = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	flagNoZeroes      = uint16(1 << 1)

	clientFixedNewstyle = uint32(1 << 0)
	clientNoZeroes      = uint32(1 << 1)
)

// Options a client sends during the handshake.
const (
	optExportName      = uint32(1)
	optAbort           = protocol.NEGOTIATION_ID_OPTION_ABORT
	optList            = protocol.NEGOTIATION_ID_OPTION_LIST
	optStartTLS        = uint32(5)
	optInfo            = protocol.NEGOTIATION_ID_OPTION_INFO
	optGo              = protocol.NEGOTIATION_ID_OPTION_GO
	optStructuredReply = uint32(8)
	optListMetaContext = uint32(9)
	optSetMetaContext  = uint32(10)
)

// Types of a reply to an option. Those with bit 31 are errors and carry a message for people.
const (
	repAck         = protocol.NEGOTIATION_TYPE_REPLY_ACK
	repServer      = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	repInfo        = protocol.NEGOTIATION_TYPE_REPLY_INFO
	repMetaContext = uint32(4)

	repErrUnsup   = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	repErrInvalid = uint32(1<<31 | 3)
	repErrTLSReqd = uint32(1<<31 | 5)
	repErrUnknown = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	repErrTooBig  = uint32(1<<31 | 9)
)

// Kinds of information in a reply to INFO and GO.
const (
	infoExport      = protocol.NEGOTIATION_TYPE_INFO_EXPORT
	infoName        = protocol.NEGOTIATION_TYPE_INFO_NAME
	infoDescription = protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION
	infoBlockSize   = protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE
)

// Transmission flags.
const (
	flagHasFlags        = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	flagReadOnly        = uint16(1 << 1)
	flagSendFlush       = uint16(1 << 2)
	flagSendFUA         = uint16(1 << 3)
	flagSendTrim        = uint16(1 << 5)
	flagSendWriteZeroes = uint16(1 << 6)
	flagSendDF          = uint16(1 << 7)
	flagMultiConn       = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	flagSendCache       = uint16(1 << 10)
	flagSendFastZero    = uint16(1 << 11)
)

// Commands.
const (
	cmdRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	cmdWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	cmdDisc        = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	cmdFlush       = uint16(3)
	cmdTrim        = uint16(4)
	cmdCache       = uint16(5)
	cmdWriteZeroes = uint16(6)
	cmdBlockStatus = uint16(7)
)

// Command flags.
const (
	cmdFlagFUA      = uint16(1 << 0)
	cmdFlagNoHole   = uint16(1 << 1)
	cmdFlagDF       = uint16(1 << 2)
	cmdFlagReqOne   = uint16(1 << 3)
	cmdFlagFastZero = uint16(1 << 4)
)

// Structured reply chunks.
const (
	chunkFlagDone    = uint16(1 << 0)
	chunkOffsetData  = uint16(1)
	chunkBlockStatus = uint16(5)
	chunkError       = uint16(1<<15 | 1)
)

// base:allocation, the only metadata context served. Its ID is ours to choose; the state bits are the document's.
const (
	baseAllocation   = "base:allocation"
	baseAllocationID = uint32(1)
	stateHole        = uint32(1 << 0)
	stateZero        = uint32(1 << 1)
)

// Sizes on the wire, bytes.
const (
	optionHeaderSize     = 16
	requestHeaderSize    = 28
	simpleHeaderSize     = 16
	structuredHeaderSize = 20
	extentSize           = 8
)

// Limits on what a client may make the server read or hold.
const (
	// maxNameLength is the document's limit on an export name and on every other string.
	maxNameLength = 4096
	// maxOptionLength is more than any option needs: two names and a few thousand information requests.
	maxOptionLength = 64 << 10
	// maxOptions bounds the work of one handshake.
	maxOptions = 256
	// maxExtents bounds the descriptors in one BLOCK_STATUS reply; the client asks again for the rest.
	maxExtents = 1 << 11
)
