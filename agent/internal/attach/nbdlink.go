package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Commands and attributes of the kernel's generic netlink family "nbd", version 1 (include/uapi/linux/nbd-netlink.h).
const (
	nbdFamily = "nbd"
	// nbdGroup is the multicast group on which the kernel tells of connections that died.
	nbdGroup = "nbd_mc_group"

	nbdCmdConnect     = 1
	nbdCmdDisconnect  = 2
	nbdCmdReconfigure = 3
	nbdCmdLinkDead    = 4

	nbdAttrIndex             = 1
	nbdAttrSizeBytes         = 2
	nbdAttrBlockSizeBytes    = 3
	nbdAttrTimeout           = 4
	nbdAttrServerFlags       = 5
	nbdAttrSockets           = 7
	nbdAttrDeadConnTimeout   = 8
	nbdAttrBackendIdentifier = 10

	nbdSockItem = 1
	nbdSockFD   = 1
)

// nbdDevice describes a device to the kernel.
type nbdDevice struct {
	size        int64 // bytes
	blockSize   int   // bytes
	flags       uint16
	timeout     time.Duration
	deadTimeout time.Duration
	backend     string
}

type nbdLink struct {
	conn   *genetlink.Conn
	family genetlink.Family
}

// HasNBD reports whether this kernel's NBD client answers, loading its module if need be.
func HasNBD(ctx context.Context) bool {
	l, err := dialNBD(ctx)
	if err != nil {
		return false
	}
	l.close()
	return true
}

// dialNBD opens generic netlink and finds the family. The nbd module has no alias that would load it on demand.
func dialNBD(ctx context.Context) (*nbdLink, error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("open generic netlink: %w", err)
	}
	family, err := conn.GetFamily(nbdFamily)
	if errors.Is(err, os.ErrNotExist) {
		if loadErr := exec.CommandContext(ctx, "modprobe", "nbd").Run(); loadErr == nil {
			family, err = conn.GetFamily(nbdFamily)
		}
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("find the kernel's nbd: %w; load the module nbd, or use FUSE and loop", err)
	}
	return &nbdLink{conn: conn, family: family}, nil
}

func (l *nbdLink) close() { l.conn.Close() }

func (l *nbdLink) call(cmd uint8, encode func(*netlink.AttributeEncoder)) ([]genetlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	encode(ae)
	data, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	msg := genetlink.Message{Header: genetlink.Header{Command: cmd, Version: l.family.Version}, Data: data}
	return l.conn.Execute(msg, l.family.ID, netlink.Request|netlink.Acknowledge)
}

func encodeSockets(ae *netlink.AttributeEncoder, fds []int) {
	ae.Nested(nbdAttrSockets, func(list *netlink.AttributeEncoder) error {
		for _, fd := range fds {
			list.Nested(nbdSockItem, func(item *netlink.AttributeEncoder) error {
				item.Uint32(nbdSockFD, uint32(fd))
				return nil
			})
		}
		return nil
	})
}

func wholeSeconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }

// connect makes a new device on the sockets and returns its number. The kernel holds its own references to the sockets
// afterwards.
func (l *nbdLink) connect(d nbdDevice, fds []int) (int, error) {
	msgs, err := l.call(nbdCmdConnect, func(ae *netlink.AttributeEncoder) {
		ae.Uint64(nbdAttrSizeBytes, uint64(d.size))
		ae.Uint64(nbdAttrBlockSizeBytes, uint64(d.blockSize))
		ae.Uint64(nbdAttrTimeout, wholeSeconds(d.timeout))
		ae.Uint64(nbdAttrDeadConnTimeout, wholeSeconds(d.deadTimeout))
		ae.Uint64(nbdAttrServerFlags, uint64(d.flags))
		ae.String(nbdAttrBackendIdentifier, d.backend)
		encodeSockets(ae, fds)
	})
	if err != nil {
		return 0, fmt.Errorf("connect a kernel NBD device: %w", err)
	}
	for _, m := range msgs {
		if n, ok := indexOf(m); ok {
			return n, nil
		}
	}
	return 0, errors.New("connect a kernel NBD device: the kernel did not say which one it made")
}

// indexOf is the device that a message of the kernel is about.
func indexOf(m genetlink.Message) (int, bool) {
	ad, err := netlink.NewAttributeDecoder(m.Data)
	if err != nil {
		return 0, false
	}
	for ad.Next() {
		if ad.Type() == nbdAttrIndex {
			n := int(ad.Uint32())
			return n, ad.Err() == nil
		}
	}
	return 0, false
}

// deadLinks tells of every connection of the device that the kernel gives up, until ctx ends. Several that die at once
// may be told as one.
func deadLinks(ctx context.Context, index int) (<-chan struct{}, error) {
	l, err := dialNBD(ctx)
	if err != nil {
		return nil, err
	}
	group, ok := uint32(0), false
	for _, g := range l.family.Groups {
		if g.Name == nbdGroup {
			group, ok = g.ID, true
		}
	}
	if !ok {
		l.close()
		return nil, fmt.Errorf("the kernel's nbd has no multicast group %s", nbdGroup)
	}
	if err := l.conn.JoinGroup(group); err != nil {
		l.close()
		return nil, fmt.Errorf("listen for dead connections: %w", err)
	}
	news := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, l.close) // ends Receive
	go func() {
		defer l.close()
		defer stop()
		for ctx.Err() == nil {
			messages, _, err := l.conn.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // with ENOBUFS some were lost, perhaps ours
				return
			}
			about := err != nil
			for _, m := range messages {
				n, ok := indexOf(m)
				about = about || ok && m.Header.Command == nbdCmdLinkDead && n == index
			}
			if !about {
				continue
			}
			select {
			case news <- struct{}{}:
			default:
			}
		}
	}()
	return news, nil
}

// reconfigure replaces dead sockets of a device. It sends no size: a size that differs would make the kernel freeze the
// queue, which waits for the very requests that wait for the new socket. The backend guards against a device number that
// has meanwhile gone to another volume.
func (l *nbdLink) reconfigure(index int, backend string, fds []int) error {
	_, err := l.call(nbdCmdReconfigure, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(nbdAttrIndex, uint32(index))
		ae.String(nbdAttrBackendIdentifier, backend)
		encodeSockets(ae, fds)
	})
	if err != nil {
		return fmt.Errorf("reconnect /dev/nbd%d: %w", index, err)
	}
	return nil
}

// disconnect removes a device; requests that wait fail.
func (l *nbdLink) disconnect(index int) error {
	_, err := l.call(nbdCmdDisconnect, func(ae *netlink.AttributeEncoder) { ae.Uint32(nbdAttrIndex, uint32(index)) })
	if err != nil {
		return fmt.Errorf("disconnect /dev/nbd%d: %w", index, err)
	}
	return nil
}
