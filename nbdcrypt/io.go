package nbdcrypt

import (
	"keyward/nbdcrypt/blockdev"
)

// ReadAt implements blockdev.Device. On error p may hold ciphertext.
func (v *Volume) ReadAt(p []byte, off int64) (done int, err error) {
	if err := blockdev.CheckRange(off, int64(len(p)), v.rec.DataSize); err != nil {
		return 0, err
	}
	if err := v.gate.enter(); err != nil {
		return 0, err
	}
	defer v.gate.leave()
	if len(p) == 0 {
		return 0, nil
	}
	sector := v.rec.SectorSize
	// A read that met half of a write would decrypt a torn cipher block to noise, also in bytes that nobody wrote.
	from, to := v.sectors(off, len(p))
	defer v.locks.unlock(v.locks.lock(from, to, true))
	for done < len(p) {
		pos, rest := off+int64(done), p[done:]
		skip := int(pos % int64(sector))
		n := min(len(rest)/sector*sector, maxChunk)
		if skip != 0 || n == 0 {
			n = min(sector-skip, len(rest))
			err = v.readPart(rest[:n], pos-int64(skip), skip)
		} else {
			err = v.readSectors(rest[:n], pos)
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// readSectors reads whole sectors and decrypts them where they lie.
func (v *Volume) readSectors(p []byte, off int64) error {
	if _, err := v.dev.ReadAt(p, v.rec.DataOffset+off); err != nil {
		return err
	}
	tweak, step := v.tweak(off)
	v.cipher.DecryptSectors(p, p, v.rec.SectorSize, tweak, step)
	return nil
}

// readPart reads the part of one sector, at off, that starts at skip and fills p.
func (v *Volume) readPart(p []byte, off int64, skip int) error {
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	whole := (*buf)[:v.rec.SectorSize]
	defer clear(whole)
	if err := v.readSectors(whole, off); err != nil {
		return err
	}
	copy(p, whole[skip:])
	return nil
}

// sectors is the range of whole sectors that n bytes at off touch.
func (v *Volume) sectors(off int64, n int) (from, to int64) {
	sector := int64(v.rec.SectorSize)
	return off / sector * sector, (off + int64(n) + sector - 1) / sector * sector
}

// tweak is the number of the sector at off and the step to the next, in 512-byte units from the start of the payload.
func (v *Volume) tweak(off int64) (first, step uint64) {
	return uint64(off) / tweakUnit, uint64(v.rec.SectorSize) / tweakUnit
}

// WriteAt implements blockdev.Device.
func (v *Volume) WriteAt(p []byte, off int64) (int, error) { return v.write(p, off, false) }

// WriteAtInPlace implements blockdev.OwnedWriter: whole sectors are encrypted in p itself.
func (v *Volume) WriteAtInPlace(p []byte, off int64) (int, error) { return v.write(p, off, true) }

// WriteZeroes implements blockdev.Zeroer by writing encrypted zeroes, also if mayUnmap: a hole would read as noise.
func (v *Volume) WriteZeroes(off, n int64, _ bool) error {
	if err := v.checkWrite(off, n); err != nil {
		return err
	}
	// Each part passes the gate by itself, so that Suspend does not wait for gigabytes of zeroes.
	for end := off + n; off < end; {
		part := min(end, (off/maxChunk+1)*maxChunk) - off
		if _, err := v.WriteAt(zeroes[:part], off); err != nil {
			return err
		}
		off += part
	}
	return nil
}

func (v *Volume) write(p []byte, off int64, owned bool) (done int, err error) {
	if err := v.checkWrite(off, int64(len(p))); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := v.gate.enter(); err != nil {
		return 0, err
	}
	defer v.gate.leave()
	end := off + int64(len(p))
	from, to := v.sectors(off, len(p))
	// Every write takes the lock, not only partial ones: a read-modify-write that read a sector before another write of
	// it, and wrote it afterwards, would undo acknowledged bytes.
	defer v.locks.unlock(v.locks.lock(from, to, false))
	if owned && from == off && to == end {
		return v.writeOwned(p, off)
	}
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	for at := from; at < to; at += maxChunk {
		stop := min(at+maxChunk, to)
		lo, hi := max(off, at), min(end, stop)
		if err := v.writeChunk((*buf)[:stop-at], at, p[lo-off:hi-off], int(lo-at)); err != nil {
			return done, err
		}
		done = int(hi - off)
	}
	return done, nil
}

// writeOwned encrypts whole sectors in p.
func (v *Volume) writeOwned(p []byte, off int64) (done int, err error) {
	for done < len(p) {
		part := p[done:min(done+maxChunk, len(p))]
		pos := off + int64(done)
		tweak, step := v.tweak(pos)
		v.cipher.EncryptSectors(part, part, v.rec.SectorSize, tweak, step)
		if _, err := v.dev.WriteAt(part, v.rec.DataOffset+pos); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

// writeChunk writes the whole sectors at off that buf has room for: p from skip on, and what the device holds around it.
func (v *Volume) writeChunk(buf []byte, off int64, p []byte, skip int) error {
	tweak, step := v.tweak(off)
	plain := p
	if len(p) < len(buf) {
		// Plaintext of other requests is in buf only if encrypting was not reached.
		if err := v.fillEdges(buf, off, skip, skip+len(p)); err != nil {
			clear(buf)
			return err
		}
		copy(buf[skip:], p)
		plain = buf
	}
	v.cipher.EncryptSectors(buf, plain, v.rec.SectorSize, tweak, step)
	_, err := v.dev.WriteAt(buf, v.rec.DataOffset+off)
	return err
}

// fillEdges reads and decrypts the first and the last sector of buf, at off, where [from, to) does not cover them.
func (v *Volume) fillEdges(buf []byte, off int64, from, to int) error {
	sector := v.rec.SectorSize
	last := len(buf) - sector
	if from > 0 {
		if err := v.readSectors(buf[:sector], off); err != nil {
			return err
		}
	}
	if to < len(buf) && (last > 0 || from == 0) {
		return v.readSectors(buf[last:], off+int64(last))
	}
	return nil
}
