package kmip

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// maxMessage bounds a message in each direction, in bytes.
const maxMessage = 1 << 20

// The tags of the messages (section 9.1.3.1).
const (
	tagAttribute       = 0x420008
	tagAttributeName   = 0x42000A
	tagAttributeValue  = 0x42000B
	tagBatchCount      = 0x42000D
	tagBatchItem       = 0x42000F
	tagCipherMode      = 0x420011
	tagAlgorithm       = 0x420028
	tagLength          = 0x42002A
	tagParameters      = 0x42002B
	tagUsageMask       = 0x42002C
	tagNonce           = 0x42003D
	tagMaximumResponse = 0x420050
	tagNameType        = 0x420054
	tagNameValue       = 0x420055
	tagObjectType      = 0x420057
	tagOperation       = 0x42005C
	tagVersion         = 0x420069
	tagVersionMajor    = 0x42006A
	tagVersionMinor    = 0x42006B
	tagRequestHeader   = 0x420077
	tagRequest         = 0x420078
	tagRequestPayload  = 0x420079
	tagResponse        = 0x42007B
	tagResponsePayload = 0x42007C
	tagResultMessage   = 0x42007D
	tagResultReason    = 0x42007E
	tagResultStatus    = 0x42007F
	tagTemplate        = 0x420091
	tagUniqueID        = 0x420094
	tagData            = 0x4200C2
	tagTagLength       = 0x4200CE
	tagAAD             = 0x4200FE
	tagAuthTag         = 0x4200FF
)

// The operations (section 9.1.3.2.27).
const (
	opCreate   = 0x01
	opLocate   = 0x08
	opActivate = 0x12
	opEncrypt  = 0x1F
	opDecrypt  = 0x20
)

// The values of enumerations and masks that this client uses.
const (
	symmetricKey = 2
	aes          = 3
	gcm          = 9
	plainText    = 1 // a name type: uninterpreted text
	useEncrypt   = 0x4
	useDecrypt   = 0x8
	statusDone   = 0
)

// Refusal is the server's word that it did not do an operation.
type Refusal struct {
	// Reason is a result reason (section 9.1.3.2.29).
	Reason  uint32
	Message string
}

// Error says what the server said.
func (r *Refusal) Error() string {
	return fmt.Sprintf("the server refuses (reason 0x%x): %s", r.Reason, r.Message)
}

// The reasons of a ciphertext that does not open, and of what the server does not name.
const (
	ReasonCryptographicFailure = 0x0A
	ReasonGeneralFailure       = 0x100
)

// Client speaks with one server over one connection, one call after another, and connects again when that one is gone. It
// is safe for concurrent use.
type Client struct {
	// Address is HOST:PORT; TLS names the client's certificate and the server's authorities.
	Address string
	TLS     *tls.Config
	// Timeout bounds connecting and each call.
	Timeout time.Duration

	mu   sync.Mutex
	conn net.Conn
}

// Close ends the connection.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drop()
}

func (c *Client) drop() error {
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn = nil
	return err
}

// call makes one call. A connection that was kept may have been closed by the server: then a new one is tried once.
func (c *Client) call(operation uint32, payload ...Item) (Item, error) {
	request := Structure(tagRequest,
		Structure(tagRequestHeader,
			Structure(tagVersion, Integer(tagVersionMajor, 1), Integer(tagVersionMinor, 4)),
			Integer(tagMaximumResponse, maxMessage), Integer(tagBatchCount, 1)),
		Structure(tagBatchItem, Enumeration(tagOperation, operation), Structure(tagRequestPayload, payload...))).Append(nil)
	defer clear(request)
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.conn != nil
	answer, err := c.exchange(request)
	if err != nil && kept {
		answer, err = c.exchange(request)
	}
	if err != nil {
		return Item{}, fmt.Errorf("asking the KMIP server %s: %w", c.Address, err)
	}
	return result(answer, operation)
}

func (c *Client) exchange(request []byte) (answer []byte, err error) {
	defer func() {
		if err != nil {
			c.drop()
		}
	}()
	if c.conn == nil {
		ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
		defer cancel()
		if c.conn, err = (&tls.Dialer{Config: c.TLS}).DialContext(ctx, "tcp", c.Address); err != nil {
			return nil, err
		}
	}
	if err := c.conn.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(request); err != nil {
		return nil, err
	}
	return readMessage(c.conn)
}

// readMessage reads one message: its head says how long it is.
func readMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, headBytes)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	n := binary.BigEndian.Uint32(head[4:])
	if n > maxMessage {
		return nil, fmt.Errorf("the answer has %d bytes; at most %d are taken", n, maxMessage)
	}
	message := append(head, make([]byte, n)...)
	if _, err := io.ReadFull(r, message[headBytes:]); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return message, nil
}

var errAnswer = errors.New("the answer is not that of a KMIP 1.4 server")

// result takes the payload of an answer to one operation, or the server's refusal.
func result(answer []byte, operation uint32) (Item, error) {
	message, err := Decode(answer)
	if err != nil {
		return Item{}, fmt.Errorf("%w: %w", errAnswer, err)
	}
	if message.Tag != tagResponse || message.Type != TypeStructure {
		return Item{}, errAnswer
	}
	item, ok := message.Find(tagBatchItem, TypeStructure)
	if !ok {
		return Item{}, errAnswer
	}
	status, ok := item.Find(tagResultStatus, TypeEnumeration)
	if !ok {
		return Item{}, errAnswer
	}
	if status.Uint32() != statusDone {
		reason, _ := item.Find(tagResultReason, TypeEnumeration)
		said, _ := item.Find(tagResultMessage, TypeText)
		return Item{}, &Refusal{reason.Uint32(), string(said.Value)}
	}
	payload, ok := item.Find(tagResponsePayload, TypeStructure)
	if did, has := item.Find(tagOperation, TypeEnumeration); !ok || !has || did.Uint32() != operation {
		return Item{}, errAnswer
	}
	return payload, nil
}
