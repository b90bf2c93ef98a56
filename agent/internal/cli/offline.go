package cli

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyward/agent/internal/config"
	"keyward/agent/internal/daemon"
	"keyward/agent/internal/harden"
	"keyward/agent/internal/logbook"
	"keyward/agent/internal/offline"
	"keyward/broker/api"
)

// opening is how a volume is opened without a broker, whatever the key comes from.
type opening struct {
	device, mountPoint, fileSystem string
	disks                          []string
	mapOnly, write, foreground     bool
}

func (o *opening) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.device, "device", "", "ID or name of the device, where there are keys of several")
	f.StringArrayVar(&o.disks, "disk", nil, "disk or image file that holds the volume (default: looked for on all disks); may be repeated")
	f.StringVar(&o.mountPoint, "mount-point", "", "where to mount the volume, an absolute path")
	f.BoolVar(&o.mapOnly, "map-only", false, "make the block device and mount nothing")
	f.StringVar(&o.fileSystem, "file-system", "", "ext3, ext4 or xfs (default: what the volume holds)")
	f.BoolVar(&o.write, "write", false, "open it for writing; without this, nothing on the disk is changed")
	f.BoolVar(&o.foreground, "foreground", false, "stay until interrupted, instead of going on in the background")
}

func (o *opening) check() error {
	if (o.mountPoint == "") == !o.mapOnly {
		return coded{exitUsage, errors.New("give either --mount-point DIR or --map-only")}
	}
	if o.mountPoint != "" && !filepath.IsAbs(o.mountPoint) {
		return coded{exitUsage, fmt.Errorf("--mount-point %q is not an absolute path", o.mountPoint)}
	}
	if os.Geteuid() != 0 {
		return errors.New("opening a volume mounts file systems and must be done as root; run it with sudo")
	}
	return nil
}

// means is where the keys come from.
type means struct {
	event api.OfflineEvent
	words string
	// detail goes into the record.
	detail map[string]string
	// open turns what people typed into keys.
	open func(secrets []string) ([]offline.Key, error)
}

// openOffline opens the volume in a process of its own, or in this one where that is asked for or it is that process.
func (a *app) openOffline(ctx context.Context, o opening, volumes []offline.Volume, secrets []string, m means) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	id := volumes[0].Record.UUID
	if r := volumes[0].Record.RAID; r != nil {
		id = r.Set
	}
	dir := offline.SessionDir(cfg.RuntimeDir, id)
	if !o.foreground && !a.isChild() {
		return a.inBackground(ctx, dir, secrets)
	}
	err = a.serveOffline(ctx, cfg, o, dir, secrets, m)
	a.failed(err)
	return err
}

// serveOffline opens the volume and stays until it is closed.
func (a *app) serveOffline(ctx context.Context, cfg config.Config, o opening, dir string, secrets []string, m means) error {
	harden.Apply()
	keys, err := m.open(secrets)
	if err != nil {
		return err
	}
	book := notebook(cfg)
	grace := time.Duration(cfg.UnmountGraceSeconds) * time.Second
	var devices []string
	for _, k := range keys {
		devices = append(devices, k.DeviceID)
	}
	options := offline.Options{Keys: keys, Disks: o.disks, MountPoint: o.mountPoint, FileSystem: o.fileSystem, Write: o.write, Dir: dir,
		Connections: cfg.Connections, Logger: a.logger(cfg)}
	opened := func(s offline.Session) error {
		detail := map[string]string{"access": s.Access, "block_device": s.BlockDevice, "mount_point": s.MountPoint, "by": operator()}
		for name, v := range m.detail {
			detail[name] = v
		}
		if err := book.Append(m.event, devices, detail); err != nil {
			return fmt.Errorf("%w; nothing is opened without a record", err)
		}
		text := fmt.Sprintf("%s (%s) is open %s as %s", s.Name, strings.Join(s.Devices, ", "), s.Access, s.BlockDevice)
		if s.MountPoint != "" {
			text += ", mounted at " + s.MountPoint
		}
		return a.announce(text + "\nclose it with: keyward-agent close-exported " + shellQuote(s.ID))
	}
	closed := func() {
		if err := book.Append(api.OfflineClosed, devices, nil); err != nil {
			a.logger(cfg).Error("the end of what was done without the broker is not recorded", "error", err)
		}
	}
	return offline.Serve(ctx, options, m.words, grace, opened, closed)
}

// notebook is where what is done without the broker is recorded. A machine that is not enrolled keeps it for itself.
func notebook(cfg config.Config) *logbook.Book {
	store, err := daemon.OpenStore(cfg, nil)
	if err != nil {
		return logbook.New(cfg.StateDir, "", "", nil)
	}
	id, err := store.Load()
	if err != nil {
		return logbook.New(cfg.StateDir, "", "", nil)
	}
	signer, _ := id.Certificate.PrivateKey.(crypto.Signer)
	return logbook.New(cfg.StateDir, id.AccountID, id.InstanceID, signer)
}

// operator is who is at the machine, as far as it can tell: the account that became root, or root.
func operator() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

func (a *app) logger(cfg config.Config) *slog.Logger {
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: cfg.Level()}))
}
