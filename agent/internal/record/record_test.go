package record

import (
	"reflect"
	"testing"

	"keyward/broker/api"
)

func TestRecord_everyFieldOfTheWireMakesTheWayThereAndBack(t *testing.T) {
	t.Parallel()
	full := api.VolumeRecord{UUID: "u", Cipher: "c", KeyBits: 1, SectorSize: 2, DataOffset: 3, DataSize: 4, DigestSalt: []byte{5}, Digest: []byte{6},
		DigestIterations: 7, Epoch: 8, HeaderHash: []byte{9}, Broker: "b", Account: "a", RAID: &api.RAIDMember{Set: "s", Index: 1, Count: 2, Chunk: 65536}, Device: "d"}
	v := reflect.ValueOf(full)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Fatalf("the test does not fill %s", v.Type().Field(i).Name)
		}
	}
	if got := OnWire(OnDisk(full)); !reflect.DeepEqual(got, full) {
		t.Errorf("came back as %+v, want %+v", got, full)
	}
}
