package store_test

import (
	"os"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
)

// FuzzStateFile writes over a piece of a sound file and cuts it off, and of its copy too
// where both is set: it is refused in words, or what comes of it can be worked with.
func FuzzStateFile(f *testing.F) {
	f.Add(uint32(0), []byte{}, uint32(1<<20), false)
	f.Add(uint32(16), []byte{0xed, 0xda, 0x0c, 0xed, 9}, uint32(1<<20), true)
	f.Add(uint32(4096+64), []byte(strings.Repeat("\xff", 16)), uint32(1<<20), true)
	f.Add(uint32(3*4096), []byte(`{"schema":99}`), uint32(4*4096), true)
	f.Add(uint32(5*4096+8), []byte{2, 0, 0xff, 0xff}, uint32(7*4096+1), true)
	f.Fuzz(func(t *testing.T, at uint32, piece []byte, length uint32, both bool) {
		for _, path := range files() {
			h := filled(t)
			damaged := []string{path(h)}
			if both {
				damaged = append(damaged, strings.TrimSuffix(path(h), ".db")+".copy")
			}
			for _, file := range damaged {
				rewrite(t, file, func(text []byte) []byte {
					if int(at) < len(text) {
						copy(text[at:], piece)
					}
					return text[:min(len(text), int(length))]
				})
			}
			s, err := h.tryOpen()
			if err != nil {
				if _, gone := os.Stat(path(h)); gone != nil {
					t.Errorf("refused, and taken away: %v", err)
				}
				continue
			}
			before := loaded(t, s)
			save(t, s, before, spec.State{})
			save(t, s, spec.State{}, sample(t))
			wantState(t, s, sample(t))
			closed(t, s)
		}
	})
}
