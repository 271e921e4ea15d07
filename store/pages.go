package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
)

// bbolt trusts the pages of its file: a damaged one makes it panic, or read memory
// that is not the file's, which no program survives. So the pages are looked at
// here first, with checked indices, in the format of bbolt's internal/common.
//
// Only the shape is looked at: that keys are in order and that no page is both
// used and free is left to bbolt's own check, which is safe after this one.

// The format. Numbers are in the machine's own byte order.
const (
	pageHeader = 16 // id uint64, flags, count uint16, overflow uint32
	element    = 16 // of a branch: pos, ksize uint32, page uint64; of a leaf: flags, pos, ksize, vsize uint32
	metaLen    = 64 // magic, version, page size, flags uint32, then uint64: root, its sequence, freelist, high water mark, transaction, checksum

	metaMagic, metaVersion = 0xED0CDAED, 2

	branchPage, leafPage, freelistPage = 0x01, 0x02, 0x10

	bucketElement = 0x01 // a leaf's element whose value is a bucket: root page, sequence uint64, or 0 and a page within
	noFreelist    = ^uint64(0)
)

func u16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
func u32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

var errShape = errors.New("pages out of shape")

// pages is a whole file.
type pages struct {
	data []byte
	size uint64 // of a page
	end  uint64 // the first page that is not in use (the high water mark)
	seen map[uint64]bool
}

// checkPages says what is out of shape in a file, one of bbolt's with nothing but
// buckets at its top. Nothing is in an empty one.
func checkPages(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	p := &pages{data: data, size: uint64(os.Getpagesize()), seen: map[uint64]bool{}}
	meta := p.newestMeta()
	if meta == nil {
		return errors.New("no valid header")
	}
	root, freelist := u64(meta[16:]), u64(meta[32:])
	p.end = u64(meta[40:])
	if have := uint64(len(data)) / p.size; p.end > have {
		return fmt.Errorf("%d pages of %d are missing", p.end-have, p.end)
	}
	if err := p.tree(root, true); err != nil {
		return err
	}
	if freelist == noFreelist {
		return nil
	}
	return p.freelist(freelist)
}

// newestMeta finds the meta of the last transaction, at the first or second page,
// and the size of a page.
func (p *pages) newestMeta() []byte {
	first := p.meta(0)
	if first != nil {
		p.size = uint64(u32(first[8:]))
	}
	second := p.meta(p.size)
	switch {
	case first == nil && second != nil:
		p.size = uint64(u32(second[8:]))
		return second
	case second == nil || first != nil && u64(first[48:]) > u64(second[48:]):
		return first
	}
	return second
}

func (p *pages) meta(at uint64) []byte {
	if uint64(len(p.data)) < at+pageHeader+metaLen {
		return nil
	}
	m := p.data[at+pageHeader:][:metaLen]
	sum := fnv.New64a()
	_, _ = sum.Write(m[:metaLen-8])
	if u32(m) != metaMagic || u32(m[4:]) != metaVersion || u64(m[metaLen-8:]) != sum.Sum64() {
		return nil
	}
	return m
}

// page returns a page with those that it flows over into, once.
func (p *pages) page(id uint64) ([]byte, error) {
	if id < 2 || id >= p.end || p.seen[id] {
		return nil, fmt.Errorf("%w: page %d of %d, or twice", errShape, id, p.end)
	}
	p.seen[id] = true
	page := p.data[id*p.size:]
	length := (uint64(u32(page[12:])) + 1) * p.size
	if u64(page) != id || length > (p.end-id)*p.size {
		return nil, fmt.Errorf("%w: page %d", errShape, id)
	}
	return page[:length], nil
}

// tree walks the pages of a bucket; the top one holds buckets only.
func (p *pages) tree(id uint64, top bool) error {
	page, err := p.page(id)
	if err != nil {
		return err
	}
	if u16(page[8:]) != branchPage {
		return p.leaf(page, top)
	}
	count := uint64(u16(page[10:]))
	if count == 0 {
		return fmt.Errorf("%w: branch %d is empty", errShape, id)
	}
	for i := range count {
		at := pageHeader + i*element
		if at+element > uint64(len(page)) {
			return fmt.Errorf("%w: branch %d", errShape, id)
		}
		e := page[at:][:element]
		if _, err := slice(page[at:], u32(e), u32(e[4:]), 0); err != nil {
			return err
		}
		if err := p.tree(u64(e[8:]), top); err != nil {
			return err
		}
	}
	return nil
}

// leaf looks at the elements of one page.
func (p *pages) leaf(page []byte, top bool) error {
	if len(page) < pageHeader || u16(page[8:]) != leafPage {
		return fmt.Errorf("%w: not a leaf", errShape)
	}
	for i := range uint64(u16(page[10:])) {
		at := pageHeader + i*element
		if at+element > uint64(len(page)) {
			return fmt.Errorf("%w: leaf of %d bytes", errShape, len(page))
		}
		e := page[at:][:element]
		value, err := slice(page[at:], u32(e[4:]), u32(e[8:]), u32(e[12:]))
		if err != nil {
			return err
		}
		if u32(e)&bucketElement != 0 {
			err = p.bucket(value)
		} else if top {
			err = fmt.Errorf("%w: a record among buckets", errShape)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pages) bucket(value []byte) error {
	if len(value) < 16 {
		return fmt.Errorf("%w: bucket of %d bytes", errShape, len(value))
	}
	if root := u64(value); root != 0 {
		return p.tree(root, false)
	}
	return p.leaf(value[16:], false)
}

// slice cuts an element's value out of what begins with the element. Its key
// comes before it, and has at least one byte.
func slice(from []byte, pos, ksize, vsize uint32) ([]byte, error) {
	begin := uint64(pos) + uint64(ksize)
	end := begin + uint64(vsize)
	if ksize == 0 || end > uint64(len(from)) {
		return nil, fmt.Errorf("%w: an element reaches beyond its page", errShape)
	}
	return from[begin:end], nil
}

// freelist looks at the list of free pages. If its count does not fit into the
// page's header, it is the first element.
func (p *pages) freelist(id uint64) error {
	page, err := p.page(id)
	if err != nil {
		return err
	}
	list, count := page[pageHeader:], uint64(u16(page[10:]))
	if count == 0xFFFF {
		count, list = u64(list), list[8:]
	}
	if u16(page[8:]) != freelistPage || count > uint64(len(list)/8) {
		return fmt.Errorf("%w: list of %d free pages", errShape, count)
	}
	for i := range count {
		if free := u64(list[i*8:]); free < 2 || free >= p.end {
			return fmt.Errorf("%w: free page %d of %d", errShape, free, p.end)
		}
	}
	return nil
}
