package nftables

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// batch is one transaction in the making. The library can give a table no flags, and
// lets nobody add to what it sends; so it only writes its messages down here, among
// ours, and the socket that is to own the tables sends them all.
type batch struct {
	scribe   *nftables.Conn
	messages []netlink.Message
}

func newBatch() (*batch, error) {
	b := &batch{}
	var err error
	b.scribe, err = nftables.New(nftables.WithTestDial(b.take))
	return b, err
}

// take is what the library believes to be a socket. Of what it sends, the first message
// and the last are the brackets of a transaction.
func (b *batch) take(sent []netlink.Message) ([]netlink.Message, error) {
	for i := 1; i < len(sent)-1; i++ {
		// One answer for each, and no echo of what was made.
		header := netlink.Header{Type: sent[i].Header.Type, Flags: sent[i].Header.Flags&^netlink.Echo | netlink.Acknowledge}
		b.messages = append(b.messages, netlink.Message{Header: header, Data: sent[i].Data})
	}
	return nil, io.EOF // no answers
}

// table adds a message about a table, behind all that was written so far. No flags are
// not the same as flags of zero, which ask to have those of a table that stands changed.
func (b *batch) table(what int, t *table, flags ...uint32) error {
	if err := b.scribe.Flush(); err != nil {
		return err
	}
	m, err := t.message(what, flags...)
	if err != nil {
		return err
	}
	m.Header.Flags |= netlink.Acknowledge
	if what == unix.NFT_MSG_NEWTABLE {
		m.Header.Flags |= netlink.Create
	}
	b.messages = append(b.messages, m)
	return nil
}

// message is one about a table.
func (t *table) message(what int, flags ...uint32) (netlink.Message, error) {
	attrs := netlink.NewAttributeEncoder()
	attrs.ByteOrder = binary.BigEndian
	attrs.String(unix.NFTA_TABLE_NAME, t.kernel.Name)
	for _, f := range flags {
		attrs.Uint32(unix.NFTA_TABLE_FLAGS, f)
	}
	data, err := attrs.Encode()
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | what), Flags: netlink.Request},
		Data:   append(nfgenmsg(byte(t.kernel.Family), 0), data...),
	}, err
}

// nfgenmsg is the struct at the head of every message.
func nfgenmsg(family byte, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

// commit sends the transaction and waits for the answer to each part. What an error
// leaves unread makes the connection useless.
func (c *conn) commit() error {
	if err := c.scribe.Flush(); err != nil {
		return err
	}
	messages := c.messages
	c.messages = nil
	if len(messages) == 0 {
		return nil
	}
	sent, err := c.raw.SendMessages(bracket(messages))
	if err != nil {
		return fmt.Errorf("send a transaction: %w", err)
	}
	for missing := len(sent) - 2; missing > 0; {
		answers, err := c.raw.Receive()
		if err != nil {
			return fmt.Errorf("commit a transaction: %w", err)
		}
		missing -= len(answers)
	}
	return nil
}

// bracket says where a transaction begins and ends.
func bracket(messages []netlink.Message) []netlink.Message {
	edge := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
		}
	}
	all := append([]netlink.Message{edge(unix.NFNL_MSG_BATCH_BEGIN)}, messages...)
	return append(all, edge(unix.NFNL_MSG_BATCH_END))
}
