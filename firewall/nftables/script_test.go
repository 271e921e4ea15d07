package nftables

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/drawbridge-net/drawbridge/plan"
)

// script are the tables for a plan in the language of nft: what a person would feed
// to nft -f to get the same.
func script(p *plan.Plan) string {
	r := newRuleset()
	sorted := slices.SortedFunc(maps.Keys(elements(p)), compare)
	return r.script(r.inet, sorted) + r.script(r.bridge, sorted)
}

func (r *ruleset) script(t *table, sorted []element) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s {\n", t)
	for _, s := range t.sets {
		what := "set"
		if len(s.value) > 0 {
			what = "map"
		}
		fmt.Fprintf(&b, "\t%s %s {\n\t\ttype %s\n", what, s.name, s.types())
		if s.interval {
			b.WriteString("\t\tflags interval\n")
		}
		if texts := r.texts(s, sorted); len(texts) > 0 {
			fmt.Fprintf(&b, "\t\telements = {\n\t\t\t%s\n\t\t}\n", strings.Join(texts, ",\n\t\t\t"))
		}
		b.WriteString("\t}\n\n")
	}
	for _, ch := range t.chains {
		fmt.Fprintf(&b, "\tchain %s {\n", ch.name)
		if ch.typ != "" {
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy accept;\n", ch.typ, hookName(*ch.hook), ch.priority)
		}
		for _, r := range ch.rules {
			fmt.Fprintf(&b, "\t\t%s comment %q\n", r.text, r.comment)
		}
		b.WriteString("\t}\n\n")
	}
	return b.String() + "}\n"
}

// elementLines are the elements for a plan, one a line.
func elementLines(p *plan.Plan) string {
	var b strings.Builder
	r := newRuleset()
	for _, e := range slices.SortedFunc(maps.Keys(elements(p)), compare) {
		fmt.Fprintf(&b, "%s %s\n", e.set, r.text(e))
	}
	return b.String()
}

func (s *set) types() string {
	text := datatype(s.key).Name
	if len(s.value) > 0 {
		text += " : " + datatype(s.value).Name
	}
	return text
}

func (r *ruleset) texts(s *set, all []element) []string {
	var texts []string
	for _, e := range all {
		if e.set == s.name {
			texts = append(texts, r.text(e))
		}
	}
	return texts
}

func hookName(h nftables.ChainHook) string {
	return []string{"prerouting", "input", "forward", "output", "postrouting"}[h]
}
