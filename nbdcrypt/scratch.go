package nbdcrypt

import (
	"sync"
	"unsafe"
)

const (
	// maxChunk is how many bytes are encrypted before they are written, and read before they are decrypted: small
	// enough to stay in the processor's cache between the two.
	maxChunk = 256 << 10
	// bufferAlign suits direct I/O on every disk.
	bufferAlign = 4096
)

// scratch buffers hold ciphertext on its way to the device, and plaintext only inside one call. They are aligned.
var scratch = sync.Pool{New: func() any {
	raw := make([]byte, maxChunk+bufferAlign)
	shift := int(-uintptr(unsafe.Pointer(&raw[0])) & (bufferAlign - 1))
	buf := raw[shift : shift+maxChunk : shift+maxChunk]
	return &buf
}}

// zeroes is the source of WriteZeroes.
var zeroes [maxChunk]byte
