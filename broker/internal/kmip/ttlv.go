// Package kmip is a client for the few operations of KMIP 1.4 (OASIS, Key Management Interoperability Protocol
// Specification Version 1.4) that a root key needs: find, create and activate a symmetric key, and have the server encrypt
// and decrypt with it, so that the key never leaves it.
package kmip

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Type is the type of an item (section 9.1.1.2).
type Type byte

// The types that this client sends or passes over.
const (
	TypeStructure   Type = 1
	TypeInteger     Type = 2
	TypeLongInteger Type = 3
	TypeBigInteger  Type = 4
	TypeEnumeration Type = 5
	TypeBoolean     Type = 6
	TypeText        Type = 7
	TypeBytes       Type = 8
	TypeDateTime    Type = 9
	TypeInterval    Type = 10
)

const (
	headBytes = 8
	// maxDepth bounds how deep structures lie in each other; messages of KMIP 1.4 need about eight.
	maxDepth = 16
	// maxItems bounds the items of one message.
	maxItems = 4096
)

// Item is one item of a message: tag, type, and either a value or the items of a structure.
type Item struct {
	Tag   uint32
	Type  Type
	Value []byte
	Items []Item
}

// Structure makes a structure.
func Structure(tag uint32, items ...Item) Item {
	return Item{Tag: tag, Type: TypeStructure, Items: items}
}

// Integer makes a signed 32-bit integer.
func Integer(tag uint32, v int32) Item {
	return Item{Tag: tag, Type: TypeInteger, Value: binary.BigEndian.AppendUint32(nil, uint32(v))}
}

// Enumeration makes an enumeration.
func Enumeration(tag, v uint32) Item {
	return Item{Tag: tag, Type: TypeEnumeration, Value: binary.BigEndian.AppendUint32(nil, v)}
}

// Boolean makes a truth value.
func Boolean(tag uint32, v bool) Item {
	var n uint64
	if v {
		n = 1
	}
	return Item{Tag: tag, Type: TypeBoolean, Value: binary.BigEndian.AppendUint64(nil, n)}
}

// Text makes a text.
func Text(tag uint32, v string) Item { return Item{Tag: tag, Type: TypeText, Value: []byte(v)} }

// Bytes makes a string of bytes.
func Bytes(tag uint32, v []byte) Item { return Item{Tag: tag, Type: TypeBytes, Value: v} }

// Append writes the item behind b (section 9.1): three bytes of tag, one of type, four of length, and the value, padded
// with zeroes to a multiple of eight bytes.
func (i Item) Append(b []byte) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint32(b, i.Tag<<8|uint32(i.Type))
	b = append(b, 0, 0, 0, 0)
	if i.Type == TypeStructure {
		for _, item := range i.Items {
			b = item.Append(b)
		}
	} else {
		b = append(b, i.Value...)
	}
	n := len(b) - at - headBytes
	binary.BigEndian.PutUint32(b[at+4:], uint32(n))
	return append(b, make([]byte, padding(n))...)
}

func padding(n int) int { return -n & 7 }

// Decode reads one item that fills data to the end. Values lie in data.
func Decode(data []byte) (Item, error) {
	left := maxItems
	item, rest, err := decode(data, 0, &left)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes follow the message", len(rest))
	}
	if err != nil {
		return Item{}, fmt.Errorf("reading a KMIP message: %w", err)
	}
	return item, nil
}

// fixed are the lengths of values that have one.
var fixed = map[Type]int{TypeInteger: 4, TypeLongInteger: 8, TypeEnumeration: 4, TypeBoolean: 8, TypeDateTime: 8, TypeInterval: 4}

func decode(data []byte, depth int, left *int) (Item, []byte, error) {
	if *left--; *left < 0 {
		return Item{}, nil, fmt.Errorf("it has more than %d items", maxItems)
	}
	if len(data) < headBytes {
		return Item{}, nil, errors.New("an item is cut off")
	}
	head := binary.BigEndian.Uint32(data)
	item := Item{Tag: head >> 8, Type: Type(head)}
	n := int64(binary.BigEndian.Uint32(data[4:]))
	data = data[headBytes:]
	if n > int64(len(data)) {
		return Item{}, nil, fmt.Errorf("item %06x has %d bytes and %d are there", item.Tag, n, len(data))
	}
	value, data := data[:n], data[n:]
	pad := padding(int(n))
	if item.Type == TypeStructure && pad != 0 || pad > len(data) {
		return Item{}, nil, fmt.Errorf("item %06x does not end at a multiple of eight bytes", item.Tag)
	}
	for _, zero := range data[:pad] {
		if zero != 0 {
			return Item{}, nil, fmt.Errorf("item %06x is padded with something else than zeroes", item.Tag)
		}
	}
	data = data[pad:]
	switch want, has := fixed[item.Type]; {
	case has && int(n) != want:
		return Item{}, nil, fmt.Errorf("item %06x of type %d has %d bytes, not %d", item.Tag, item.Type, n, want)
	case item.Type == 0 || item.Type > TypeInterval:
		return Item{}, nil, fmt.Errorf("item %06x has the unknown type %d", item.Tag, item.Type)
	case item.Type != TypeStructure:
		item.Value = value
		return item, data, nil
	}
	if depth == maxDepth {
		return Item{}, nil, fmt.Errorf("its structures lie more than %d deep", maxDepth)
	}
	for len(value) > 0 {
		var inner Item
		var err error
		if inner, value, err = decode(value, depth+1, left); err != nil {
			return Item{}, nil, err
		}
		item.Items = append(item.Items, inner)
	}
	return item, data, nil
}

// Find returns the first item of a structure with the tag and type.
func (i Item) Find(tag uint32, t Type) (Item, bool) {
	for _, item := range i.Items {
		if item.Tag == tag && item.Type == t {
			return item, true
		}
	}
	return Item{}, false
}

// Uint32 is the value of an integer or enumeration.
func (i Item) Uint32() uint32 {
	if len(i.Value) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(i.Value)
}
