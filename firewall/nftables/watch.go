package nftables

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls wake after every change of the host's nftables, in whichever table,
// that Firewall did not make itself, until ctx ends. Other tables count since the
// rules of engines, and what iptables-nft keeps, are among them.
func (f *Firewall) Watch(ctx context.Context, wake func()) error {
	events, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	defer events.Close()
	if err := errors.Join(events.SetReadBuffer(bufferSize), events.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	// A deadline in the past ends the waiting.
	stop := context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	for {
		messages, err := events.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			wake() // events were lost, and nobody knows whose
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		case f.foreign(messages):
			wake()
		}
	}
}

// foreign reports whether a transaction of somebody else ends among the messages.
func (f *Firewall) foreign(messages []netlink.Message) bool {
	for _, m := range messages {
		if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN && m.Header.PID != f.port.Load() {
			return true
		}
	}
	return false
}
