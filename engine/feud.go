package engine

import (
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
)

// When somebody changes an object again and again, mending it at once each time helps
// nobody: after feudMends within feudSpan it is left alone for a while, and for twice as
// long each time that it does not stand then.
const (
	feudMends = 10
	feudSpan  = 4 * time.Second
	restMin   = time.Second
	restMax   = 30 * time.Second
)

// feud is about one object.
type feud struct {
	mends []time.Time // the latest ones, at most feudMends
	rest  time.Duration
	until time.Time // from when on it is mended again
}

// feuds are those under way, and objects of which there may be one, by name.
type feuds map[string]*feud

// resting reports whether an object is left alone for now.
func (f feuds) resting(object string, now time.Time) bool {
	feud := f[object]
	return feud != nil && now.Before(feud.until)
}

// due are the drifts on objects that may be mended now.
func (f feuds) due(drift []plan.Drift, now time.Time) []plan.Drift {
	var due []plan.Drift
	for _, d := range drift {
		if !f.resting(d.Object, now) {
			due = append(due, d)
		}
	}
	return due
}

// mended notes that an object is being mended. It returns how long it will be left alone
// for, if that is news.
func (f feuds) mended(object string, now time.Time) (rest time.Duration, news bool) {
	one := f[object]
	if one == nil || one.over(now) {
		one = &feud{}
		f[object] = one
	}
	one.mends = append(one.mends, now)
	if n := len(one.mends); n > feudMends {
		one.mends = one.mends[n-feudMends:]
	}
	before := one.rest
	switch {
	case one.rest > 0:
		one.rest = min(2*one.rest, restMax)
	case len(one.mends) == feudMends && now.Sub(one.mends[0]) < feudSpan:
		one.rest = restMin
	}
	one.until = now.Add(one.rest)
	return one.rest, one.rest != before
}

// over reports whether the object has stood for long enough since it was mended last.
func (f *feud) over(now time.Time) bool {
	return now.Sub(f.mends[len(f.mends)-1]) > f.rest+feudSpan
}

// next is when an object that is left alone is to be looked at again, the zero Time for
// never. What is over is forgotten.
func (f feuds) next(now time.Time) time.Time {
	var next time.Time
	for object, one := range f {
		switch {
		case one.over(now):
			delete(f, object)
		case now.Before(one.until) && (next.IsZero() || one.until.Before(next)):
			next = one.until
		}
	}
	return next
}
