// Package record translates the broker's volume record between the wire and the disk format.
package record

import (
	"keyward/broker/api"
	"keyward/nbdcrypt/luks2"
)

// OnDisk is the record as the disk format has it.
func OnDisk(r api.VolumeRecord) luks2.Record {
	return luks2.Record{RAID: (*luks2.RAIDMember)(r.RAID), UUID: r.UUID, Cipher: r.Cipher, KeyBits: r.KeyBits, SectorSize: r.SectorSize, DataOffset: r.DataOffset,
		DataSize: r.DataSize, DigestSalt: r.DigestSalt, Digest: r.Digest, DigestIterations: r.DigestIterations, Epoch: r.Epoch,
		HeaderHash: r.HeaderHash, Broker: r.Broker, Account: r.Account, Device: r.Device}
}

// OnWire is the record as the broker has it.
func OnWire(r luks2.Record) api.VolumeRecord {
	return api.VolumeRecord{RAID: (*api.RAIDMember)(r.RAID), UUID: r.UUID, Cipher: r.Cipher, KeyBits: r.KeyBits, SectorSize: r.SectorSize, DataOffset: r.DataOffset,
		DataSize: r.DataSize, DigestSalt: r.DigestSalt, Digest: r.Digest, DigestIterations: r.DigestIterations, Epoch: r.Epoch,
		HeaderHash: r.HeaderHash, Broker: r.Broker, Account: r.Account, Device: r.Device}
}
