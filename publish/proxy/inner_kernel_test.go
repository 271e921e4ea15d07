package proxy

import (
	"errors"
	"os"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

func TestKernelProxyUDPLeavesPortsForOthers(t *testing.T) {
	l := lab.New(t)
	l.Host.Set("net/ipv4/ip_local_port_range", "40000 40399")
	l.Host.Do(func() {
		if o, err := (Options{}).withDefaults(); err != nil || o.Sessions != 100 {
			t.Errorf("of 400 ports want 100 sessions, got %d, %v", o.Sessions, err)
		}
	})
}

func TestASocketThatCannotBeServedAgainIsTriedAgain(t *testing.T) {
	log, logged := logtest.NewNullLogger()
	p, err := New(log, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.poll.close()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[1])
	file, err := os.CreateTemp(t.TempDir(), "") // which epoll refuses
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	h := &held{id: 7, name: "8080/tcp", fd: ends[0], limits: &p.tcp}
	if err := p.poll.add(h.fd, h.id); err != nil {
		t.Fatal(err)
	}
	p.rest(h)
	h.mu.Lock()
	h.fd = int(file.Fd())
	h.mu.Unlock()
	lab.Until(t, "complaint", func() error {
		if logged.LastEntry() == nil {
			return errors.New("none")
		}
		return nil
	})
	h.mu.Lock()
	h.fd = ends[0]
	h.mu.Unlock()
	if _, err := unix.Write(ends[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := p.poll.file.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if ids, err := p.poll.wait(nil); err != nil || len(ids) != 1 || ids[0] != h.id {
		t.Errorf("want an event of %d, got %v, %v", h.id, ids, err)
	}
	h.end(p.poll)
	_ = unix.Close(ends[0])
}
