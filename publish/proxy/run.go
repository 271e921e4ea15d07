package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// burst is how much is taken from one socket before the others have their turn.
const burst = 64

// Run serves until ctx ends. Then sessions end and nobody is served anew, while
// connections may go on for a moment. It returns when nothing of it remains.
func (p *Proxy) Run(ctx context.Context) error {
	flows, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	stop := context.AfterFunc(ctx, p.poll.interrupt)
	defer stop()
	err := p.serve(flows)
	p.drain(flows, cut)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return fmt.Errorf("proxy: %w", err)
}

// serve hands what is ready to its protocol. It is alone in beginning connections and
// sessions.
func (p *Proxy) serve(ctx context.Context) error {
	var ready []uint64
	var err error
	buffer := make([]byte, maxDatagram)
	for {
		if ready, err = p.poll.wait(ready[:0]); err != nil {
			return err
		}
		for _, id := range ready {
			p.mu.Lock()
			h := p.byID[id]
			p.mu.Unlock()
			switch {
			case h == nil: // forgotten meanwhile
			case h.tcp:
				p.accept(ctx, h)
			default:
				p.receive(ctx, h, buffer)
			}
		}
	}
}

// drain ends everything, the connections of TCP when their time is over. Those that the
// kernel has accepted already have it, too.
func (p *Proxy) drain(ctx context.Context, cut context.CancelFunc) {
	p.mu.Lock()
	p.ended = true
	for _, h := range p.byFD {
		if err := h.use(shut); err != nil {
			p.grumbler.warn(h.name, "clients are not held off", err)
		}
		if h.tcp {
			p.accept(ctx, h)
		}
		h.hangUp()
	}
	p.mu.Unlock()

	over := time.AfterFunc(p.options.Drain, cut)
	p.flows.Wait()
	over.Stop()

	p.mu.Lock()
	defer p.mu.Unlock()
	for fd, h := range p.byFD {
		h.end(p.poll)
		delete(p.byFD, fd)
		delete(p.byID, h.id)
	}
	p.poll.close()
}
