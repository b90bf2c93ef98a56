// Package nbd serves block devices over the Network Block Device protocol. It knows nothing of encryption: it sees
// only blockdev.Device, and whatever optional capabilities the device has.
//
// The protocol is https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md ("the protocol document" in
// comments here). What is served: the fixed newstyle handshake with EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO,
// STRUCTURED_REPLY, LIST_META_CONTEXT and SET_META_CONTEXT (base:allocation); simple and structured replies; READ,
// WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES and BLOCK_STATUS with every flag those commands have, apart from
// extended headers.
//
// # One request
//
// One goroutine per connection reads requests. It validates each one (validate.go, one table), takes a buffer from the
// shared memory budget and reads the payload of a write. A small request to a device that answers quickly is carried out
// right there and its reply is kept until the next read would block; anything else goes to a worker, of which a
// connection has at most Options.MaxInFlight, and as many as there are processors while the device is quick. Whoever
// finishes a request queues its reply, and the first who finds nobody writing writes all that are queued in one sendmsg.
// With structured replies a long read is sent piece by piece as it comes from the device, so that it needs the memory of
// one piece and is sent from the processor's cache.
//
// On Linux a connection in clear leaves the runtime's poller when its handshake is over (socket_linux.go): waiting for a
// client is then one system call, and wakes no other thread.
//
// # Promises
//
// A FLUSH is answered only after blockdev.Device.Sync has returned for every write answered before it on any connection,
// and a command with FUA only after its own data went through Sync. Data is sent only after the device has filled it in:
// a header that says success never precedes an error of the same data, and a read in pieces that fails later ends in an
// error chunk. A write whose payload did not arrive in full is never carried out. Nothing is allocated by a length that
// has not been checked.
//
// # Errors
//
// The connection goes on after every one of these. They are what nbdkit answers, and a test compares the two.
//
//	EPERM      a command that writes, on an export that is read-only
//	EINVAL     an unknown or unannounced command or flag; a READ, TRIM, CACHE or BLOCK_STATUS that is empty or leaves the
//	           export; an offset or length that is not a multiple of the negotiated minimum; a FLUSH with a range
//	ENOSPC     a WRITE or WRITE_ZEROES that is empty or leaves the export; a medium that is full
//	ENOMEM     a READ or WRITE longer than the maximum block size
//	ENOTSUP    WRITE_ZEROES with FAST_ZERO where that would not be fast
//	ESHUTDOWN  the device has been closed
//	EIO        any other error of the device; the log has it
//
// The connection ends on a wrong magic number, a payload that stops short or comes slower than Options.StallTimeout
// allows, replies that are not taken, and a handshake that is not over within Options.HandshakeTimeout.
package nbd
