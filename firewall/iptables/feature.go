package iptables

import (
	"errors"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// feature is what a kernel or its iptables may lack, and what we can do without.
type feature string

const (
	// featureShift leads a range to other ports in one rule: Linux before 4.19, and the
	// iptables of its time, can not.
	featureShift feature = "a range of ports that leads to others (DNAT, revision 2)"
	// featureKeep settles that the source is not translated, whoever would do so later.
	featureKeep feature = "target NETMAP (xt_NETMAP)"
)

// notice is what users should know where the feature is lacking.
func (f feature) notice() string {
	text := "iptables or the kernel lacks " + string(f) + ": "
	if f == featureKeep {
		return text + "an engine whose rules are not of this iptables hides its containers from ours behind the gateway's address"
	}
	return text + "such a range costs a rule a port"
}

// lacks are the features that are known to be missing. It is never changed.
type lacks []feature

func (l lacks) has(f feature) bool { return slices.Contains(l, f) }

func (l lacks) with(f feature) lacks {
	if l.has(f) {
		return l
	}
	return append(slices.Clone(l), f)
}

// temporary are what commands say that may succeed the next time, whatever they are told.
func temporary() []string {
	return []string{"xtables lock", "Resource temporarily unavailable", "Cannot allocate memory"}
}

// refuses reports whether a command has failed because of what it was told.
func refuses(err error) bool {
	failed := (*iptables.Error)(nil)
	return errors.As(err, &failed) && !isTemporary(err)
}

func isTemporary(err error) bool {
	return slices.ContainsFunc(temporary(), func(text string) bool { return strings.Contains(err.Error(), text) })
}
