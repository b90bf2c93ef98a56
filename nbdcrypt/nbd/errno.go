package nbd

import (
	"errors"
	"syscall"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"keyward/nbdcrypt/blockdev"
)

// Errno is an error number on the wire (the protocol document's "Error values"; they do not depend on the platform).
type Errno uint32

// The error numbers that the protocol defines.
const (
	OK        Errno = 0
	EPERM     Errno = Errno(protocol.TRANSMISSION_ERROR_EPERM)
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = Errno(protocol.TRANSMISSION_ERROR_EINVAL)
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// Error is the text that a structured error reply carries. It says nothing of the device below, whose own error may
// name paths: that one is logged.
func (e Errno) Error() string {
	switch e {
	case OK:
		return "success"
	case EPERM:
		return "the export is read-only"
	case EIO:
		return "the device failed; the server's log says why"
	case ENOMEM:
		return "the request is longer than the export's maximum block size"
	case EINVAL:
		return "the request is not valid for this export"
	case ENOSPC:
		return "no space: the write ends past the export, or the medium is full"
	case EOVERFLOW:
		return "the value is too large"
	case ENOTSUP:
		return "the device has no fast way to write zeroes"
	case ESHUTDOWN:
		return "the device has been closed"
	}
	return "unknown error"
}

// errnoOf translates an error of the device. A request outside the device is ENOSPC for a command that writes, as for
// a disk that is full, and EINVAL for others.
func errnoOf(err error, writes bool) Errno {
	switch {
	case err == nil:
		return OK
	case errors.Is(err, blockdev.ErrOutOfRange):
		if writes {
			return ENOSPC
		}
		return EINVAL
	case errors.Is(err, blockdev.ErrReadOnly), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EPERM),
		errors.Is(err, syscall.EACCES):
		return EPERM
	case errors.Is(err, blockdev.ErrNoSpace), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT),
		errors.Is(err, syscall.EFBIG):
		return ENOSPC
	case errors.Is(err, syscall.ENOMEM):
		return ENOMEM
	case errors.Is(err, errors.ErrUnsupported):
		return ENOTSUP
	case errors.Is(err, blockdev.ErrClosed):
		return ESHUTDOWN
	}
	return EIO
}
