package unlock

import (
	"strings"
	"testing"

	"keyward/agent/volume"
	"keyward/broker/api"
	"keyward/nbdcrypt/keymem"
)

// A volume that was suspended here, and that another machine may have written to since, does not go on: what its mounted file
// system knows of the device is out of date.
func TestResume_refusesWhatAnotherMachineMayHaveWritten(t *testing.T) {
	t.Parallel()
	key, err := keymem.New(64)
	if err != nil {
		t.Fatal(err)
	}
	record := api.VolumeRecord{Account: "a", Cipher: "aes-xts-plain64", KeyBits: 256, UUID: "u"}
	x := &export{o: Options{AccountID: "a"}, device: api.AssignedDevice{ID: "d", Name: "data", Writers: 3}, record: record}
	err = x.Resume(t.Context(), &volume.Grant{Key: key, Device: api.AssignedDevice{ID: "d", Name: "data", Writers: 4}, Volume: record})
	if err == nil || !strings.Contains(err.Error(), "another machine that may have written") || !strings.Contains(err.Error(), "keyward-agent lock d") {
		t.Errorf("resumed: %v", err)
	}
	if key.Len() != 0 {
		if _, err := key.Clone(); err == nil {
			t.Error("the key was not wiped")
		}
	}
}
