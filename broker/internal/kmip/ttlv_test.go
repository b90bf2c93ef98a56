package kmip

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

// The examples of section 9.1.2 of the specification.
func TestItem_encodesAsTheSpecificationsExamples(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		item Item
		want string
	}{
		"an integer":      {Integer(0x420020, 8), "42002002000000040000000800000000"},
		"an enumeration":  {Enumeration(0x420020, 255), "4200200500000004000000ff00000000"},
		"a boolean":       {Boolean(0x420020, true), "42002006000000080000000000000001"},
		"a text":          {Text(0x420020, "Hello World"), "420020070000000b48656c6c6f20576f726c640000000000"},
		"a byte string":   {Bytes(0x420020, []byte{1, 2, 3}), "42002008000000030102030000000000"},
		"a structure":     {Structure(0x420020, Enumeration(0x420004, 254), Integer(0x420005, 255)), "42002001000000204200040500000004000000fe000000004200050200000004000000ff00000000"},
		"an empty string": {Bytes(0x420020, nil), "4200200800000000"},
	} {
		got := c.item.Append(nil)
		if hex.EncodeToString(got) != c.want {
			t.Errorf("%s is %x, want %s", name, got, c.want)
		}
		back, err := Decode(got)
		if err != nil || !bytes.Equal(back.Append(nil), got) {
			t.Errorf("%s does not read back: %v", name, err)
		}
	}
}

func TestDecode_refuses(t *testing.T) {
	t.Parallel()
	deep := Integer(1, 1)
	for range maxDepth + 2 {
		deep = Structure(1, deep)
	}
	wide := Structure(1)
	for range maxItems {
		wide.Items = append(wide.Items, Bytes(2, nil))
	}
	for name, c := range map[string]struct{ data, says string }{
		"nothing":                  {"", "cut off"},
		"half a head":              {"42002002", "cut off"},
		"a length beyond the end":  {"4200200800000019010203040506070800000000", "25 bytes"},
		"the longest length":       {"42002008ffffffff0102030000000000", "4294967295 bytes"},
		"an integer of five bytes": {"42002002000000050000000800000000", "not 4"},
		"padding that is missing":  {"420020080000000301020300", "multiple of eight"},
		"padding with something":   {"42002008000000030102030000000001", "zeroes"},
		"an unknown type":          {"4200200b00000000", "unknown type"},
		"no type":                  {"4200200000000000", "unknown type"},
		"bytes behind the end":     {"420020080000000000", "follow"},
		"a structure of odd bytes": {"420020010000000442002005", "multiple of eight"},
		"structures too deep":      {hex.EncodeToString(deep.Append(nil)), "deep"},
		"too many items":           {hex.EncodeToString(wide.Append(nil)), "items"},
	} {
		data, err := hex.DecodeString(c.data)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(data); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want something of %q", name, err, c.says)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Structure(tagRequest, Structure(tagRequestHeader, Integer(tagBatchCount, 1)), Text(tagUniqueID, "1"), Bytes(tagData, []byte("abc")), Boolean(1, true)).Append(nil))
	f.Add([]byte{0x42, 0, 0x20, 8, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		item, err := Decode(data)
		if err != nil {
			return
		}
		// What is read is written as it was: there is one encoding.
		again := item.Append(nil)
		if !bytes.Equal(again, data) {
			t.Fatalf("%x reads as %+v, which is %x", data, item, again)
		}
		back, err := Decode(again)
		if err != nil || !reflect.DeepEqual(back, item) {
			t.Fatalf("%+v, %v", back, err)
		}
	})
}

func FuzzResult(f *testing.F) {
	f.Add(Structure(tagResponse, Structure(tagBatchItem, Enumeration(tagOperation, opEncrypt), Enumeration(tagResultStatus, 0), Structure(tagResponsePayload))).Append(nil))
	f.Add(Structure(tagResponse, Structure(tagBatchItem, Enumeration(tagResultStatus, 1), Enumeration(tagResultReason, 1), Text(tagResultMessage, "no"))).Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = result(data, opEncrypt) })
}
