package e2e

import (
	"errors"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

const (
	locked   = "nobody else can change its tables"
	unlocked = "others can change its tables, as this kernel cannot lock them"
)

// TestEngineNobodyElseChangesLockedTables while a published port is asked all the time,
// over the daemon's death and its next start.
func TestEngineNobodyElseChangesLockedTables(t *testing.T) {
	inTrouble(t, func(*troubled) {}, func(s *troubled) {
		whole := s.rules()
		for range 2 {
			s.tells(locked)
			s.Host.Run("nft", "flush", "ruleset")
			for _, damage := range []string{"delete table inet drawbridge", "flush table bridge drawbridge", "insert rule inet drawbridge forward accept"} {
				if _, err := s.Host.Try("nft", damage); err == nil {
					t.Errorf("%s: went through", damage)
				}
			}
			if rules := s.rules(); rules != whole {
				t.Errorf("the tables are others:\n%s\nwant\n%s", rules, whole)
			}
			s.Kill()
			s.MustStart()
		}
		s.quiet()
		s.Kill()
		s.Host.Run("nft", "add", "rule", "inet", "drawbridge", "forward", "accept")
		s.MustStart()
		if rules := s.rules(); rules != whole {
			t.Errorf("what happened while nobody was there is not mended:\n%s", rules)
		}
		s.tells(locked)
	})
}

// TestEngineTablesThatNobodyCanLockAreMended is the same on a kernel that knows no owner.
func TestEngineTablesThatNobodyCanLockAreMended(t *testing.T) {
	inTrouble(t, func(s *troubled) { s.Failpoints().Order("fail 0 ^nftables: own$") }, func(s *troubled) {
		s.tells(unlocked)
		s.Kill()
		s.MustStart()
		s.tells(unlocked)
		s.quiet()
		whole := s.rules()
		mended := func(what string) {
			t.Helper()
			lab.Until(t, what+" is mended", func() error {
				if s.rules() != whole {
					return errors.New("not yet")
				}
				_, err := s.Drawbridge("status")
				return err
			})
			if _, err := s.Outside.Ask("tcp", "192.0.2.1:8081"); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		for _, damage := range []string{"flush ruleset", "delete table inet drawbridge", "flush chain inet drawbridge forward"} {
			s.Host.Run("nft", damage)
			mended(damage)
		}
		// The kernel learns it, and forgets it again.
		s.Failpoints().Withdraw()
		s.Kill()
		s.MustStart()
		s.tells(locked)
		if _, err := s.Host.Try("nft", "delete table inet drawbridge"); err == nil {
			t.Error("the tables are not locked")
		}
		s.Failpoints().Order("fail 0 ^nftables: own$")
		s.Kill()
		s.MustStart()
		s.tells(unlocked)
		s.Host.Run("nft", "flush", "ruleset")
		mended("the flush of what was locked before")
	})
}

// rules are the tables' without what is counted, and without their owner. They are none
// where a table is missing.
func (s *troubled) rules() string {
	s.t.Helper()
	var all []string
	for _, family := range []string{"inet", "bridge"} {
		out, err := s.Host.Try("nft", "--stateless", "list", "table", family, "drawbridge")
		if err != nil {
			return ""
		}
		for line := range strings.Lines(out) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " # progname")
			if !strings.HasPrefix(line, "flags owner") {
				all = append(all, line)
			}
		}
	}
	return strings.Join(all, "\n")
}
