package engine_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/drawbridge-net/drawbridge/engine"
)

// TestWhoeverFightsForAnObjectIsLeftAloneForAWhile is about a tool that takes a bridge away
// as soon as it is there: at first it is made anew five times a second, then less and less
// often, and what nobody fights for is mended at once all the same.
func TestWhoeverFightsForAnObjectIsLeftAloneForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.must(addNetwork(1), addNetwork(2))
		log, heard := logtest.NewNullLogger()
		r.engine = engine.New(r.store, r.layers[0], layered(r.layers[0], r.layers[1], r.layers[2]), &r.ports, log)
		if err := r.engine.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		run(t, r.engine)
		made := func(d time.Duration) (times int) {
			for end := time.Now().Add(d); time.Now().Before(end); <-time.After(time.Millisecond) {
				if strings.Contains(r.layers[1].String(), bridge(1)) {
					times++
					r.layers[1].Delete(bridge(1))
					r.engine.Wake()
				}
				synctest.Wait()
			}
			return times
		}
		for second := range 2 {
			if n := made(time.Second); n > 6 || n < 4 {
				t.Errorf("second %d: it was made %d times, want 5", second, n)
			}
		}
		if n := made(60 * time.Second); n > 8 || n < 5 {
			t.Errorf("it was made %d times in the minute after that, want to be after 1, 2, 4, 8, 16 and 30 s", n)
		}
		warned := 0
		for _, entry := range heard.AllEntries() {
			if entry.Level == logrus.WarnLevel && strings.Contains(entry.Message, "again and again") {
				warned++
			}
		}
		if warned != 6 {
			t.Errorf("the log says so %d times, want once for each time that it waits for longer", warned)
		}
		r.layers[1].Delete(bridge(2))
		r.engine.Wake()
		<-time.After(250 * time.Millisecond)
		if !strings.Contains(r.layers[1].String(), bridge(2)) {
			t.Error("another object has to wait")
		}
		// Peace.
		<-time.After(time.Minute)
		if !strings.Contains(r.layers[1].String(), bridge(1)) {
			t.Error("it was not made in the end")
		}
		<-time.After(time.Minute)
		r.layers[1].Delete(bridge(1))
		r.engine.Wake()
		<-time.After(250 * time.Millisecond)
		if !strings.Contains(r.layers[1].String(), bridge(1)) {
			t.Error("old feuds are not forgotten")
		}
	})
}
