package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// TestKernelWhoFightsForABridgeIsLeftAlone by mends, and nobody else is: of what ten mends
// did not help the rest is announced, and the bridge is right once the fight is over.
func TestKernelWhoFightsForABridgeIsLeftAlone(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	s := &troubled{Lab: l, Alone: l.Host.Alone(), t: t}
	s.MustStart()
	s.must(s.addNetwork(1))
	s.must(s.addNetwork(2))
	fought, bystander := "dbr"+networkOf(1)[:12], "dbr"+networkOf(2)[:12]

	fight := make(chan struct{})
	go func() {
		defer close(fight)
		for end := time.Now().Add(7 * time.Second); time.Now().Before(end); {
			_, _ = s.Host.Try("ip", "link", "set", fought, "down") // it may be about to come back
		}
	}()
	const news = "somebody changes it again and again: it is left as it is for 1s"
	lab.Until(t, "the log tells of the fight", func() error { return s.logs(news, fought) })
	mends := 0
	for line := range strings.Lines(s.Log()) {
		if strings.Contains(line, `msg="mend link `+fought) {
			mends++
		}
	}
	if mends < 1 || mends > 12 {
		t.Errorf("the bridge was mended %d times before it was left alone, want about 10", mends)
	}
	begun := time.Now()
	s.Host.Run("ip", "link", "set", bystander, "down")
	lab.Until(t, "a bystander's bridge is mended", func() error { return s.isUp(bystander) })
	took := time.Since(begun)
	t.Logf("the bystander's took %s, the other was mended %d times before", took.Round(time.Millisecond), mends)
	if took > time.Second {
		t.Errorf("the bystander's took %s, want a quarter of a second, or four times that on a busy machine", took)
	}
	<-fight
	lab.Until(t, "the bridge is mended when the fight is over", func() error { return s.isUp(fought) })
	if err := s.logs(news, bystander); err == nil {
		t.Error("the bystander's is left alone, too")
	}
}

// logs returns an error unless a line of the log has all of this.
func (s *troubled) logs(parts ...string) error {
lines:
	for line := range strings.Lines(s.Log()) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue lines
			}
		}
		return nil
	}
	return fmt.Errorf("no line of the log has %q", parts)
}

func (s *troubled) isUp(link string) error {
	out, err := s.Host.Try("ip", "link", "show", "dev", link, "up")
	if err == nil && !strings.Contains(out, link) {
		err = errors.New("it is down")
	}
	return err
}
