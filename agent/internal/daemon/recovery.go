package daemon

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"keyward/agent/internal/logbook"
	"keyward/broker/api"
	"keyward/broker/client/recovery"
)

const (
	// EnvelopeFile is the newest recovery envelope of the machine's devices, in the state folder.
	EnvelopeFile = "recovery-envelope.json"
	// recoveryPace is how often the broker is asked for a newer envelope when nothing else happens.
	recoveryPace = 15 * time.Minute
	// recordBatch is how many records are handed over at a time.
	recordBatch = 20
)

// recoveryLoop keeps the machine ready for a time without the broker: the newest envelope beside its identity; and after
// such a time hands over what was done. It looks when the devices change, and now and then.
func (d *Daemon) recoveryLoop(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		err := errors.Join(d.sendRecords(ctx), d.fetchEnvelope(ctx))
		wait := recoveryPace
		if err != nil && ctx.Err() == nil {
			failures++
			d.log.Debug("preparing for a time without the broker", "error", err)
			wait = min(d.o.Backoff(failures), recoveryPace)
		} else {
			failures = 0
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-d.listed:
		case <-t.C:
		}
		t.Stop()
	}
}

// book is the machine's own log.
func (d *Daemon) book() *logbook.Book {
	signer, _ := d.id.Certificate.PrivateKey.(crypto.Signer)
	return logbook.New(d.cfg.StateDir, d.id.AccountID, d.id.InstanceID, signer)
}

// sendRecords hands the machine's own records over, in their order.
func (d *Daemon) sendRecords(ctx context.Context) error {
	book := d.book()
	for {
		records, upTo, err := book.Unsent(recordBatch)
		if err != nil || len(records) == 0 {
			return err
		}
		err = d.link.saw(d.broker.SendOfflineRecords(ctx, api.OfflineRecords{Records: records}))
		if final(err) {
			// It stays in the file; the ones behind it must not wait for ever.
			d.log.Error("the broker refused the machine's own records; they stay in the file", "file", book.Path(), "up_to", upTo, "error", err)
		} else if err != nil {
			return err
		}
		if err := book.Sent(upTo); err != nil {
			return err
		}
	}
}

// fetchEnvelope keeps the newest envelope. An account without a recovery key has none, and the former one stays good.
func (d *Daemon) fetchEnvelope(ctx context.Context) error {
	path := filepath.Join(d.cfg.StateDir, EnvelopeFile)
	have := ""
	data, err := os.ReadFile(path)
	if err == nil {
		if h, err := recovery.ReadHeader(data); err == nil && h.InstanceID == d.id.InstanceID {
			have = h.Revision
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the recovery envelope: %w", err)
	}
	got, err := d.broker.Recovery(ctx, have)
	if d.link.saw(err) != nil || len(got.Envelope) == 0 {
		return err
	}
	h, err := recovery.ReadHeader(got.Envelope)
	if err != nil || h.InstanceID != d.id.InstanceID || h.AccountID != d.id.AccountID {
		return fmt.Errorf("the broker's recovery envelope is not this machine's: %w", err)
	}
	if err := renameio.WriteFile(path, got.Envelope, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("keep the recovery envelope: %w", err)
	}
	d.log.Info("recovery envelope kept", "file", path, "recovery_key", h.KeyID, "devices", len(h.Devices))
	return nil
}
