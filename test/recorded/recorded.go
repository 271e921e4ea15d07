// Package recorded holds the firewall rules that real engines write for the bridges and
// the container of test/reach, complete, so that a test needs no engine to stand beside
// one. A test of its own starts the engines and compares; where an engine has changed its
// mind, that test with -update writes the recordings anew:
//
//	go test -run TestEngine ./test/recorded -update
//
// It knows nothing of Drawbridge.
package recorded

import (
	"embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// What wrote the rules.
const (
	Oldest     = "20.10"           // by iptables and ip6tables
	ByIPTables = "newest-iptables" // the newest engine, by iptables and ip6tables
	ByNFTables = "newest-nftables" // the newest engine, by nftables
)

//go:embed rules
var files embed.FS //nolint:gochecknoglobals // what is embedded has to be

// Rules are what one program prints of an engine's rules: iptables-save, ip6tables-save
// or nft list ruleset. It is "" if the engine writes none by it.
func Rules(engine, program string) string {
	text, err := files.ReadFile(file(engine, program))
	if err != nil {
		return ""
	}
	return string(text)
}

func file(engine, program string) string { return fmt.Sprintf("rules/%s.%s", engine, program) }

var (
	remark   = regexp.MustCompile(`(?m)^#.*\n`)
	counted  = regexp.MustCompile(`\[\d+:\d+\]`)
	packets  = regexp.MustCompile(`counter packets \d+ bytes \d+`)
	elements = regexp.MustCompile(`elements = \{ ([^}]*) \}`)
	table    = regexp.MustCompile(`(?ms)^\*.*?^COMMIT\n`)
)

// normal is what a program has printed without what differs from one time to the next:
// dates, counters, the order of tables and of what is in a map.
func normal(text string) string {
	text = counted.ReplaceAllString(remark.ReplaceAllString(text, ""), "[0:0]")
	if tables := table.FindAllString(text, -1); tables != nil {
		slices.Sort(tables)
		text = strings.Join(tables, "")
	}
	text = packets.ReplaceAllString(text, "counter")
	return elements.ReplaceAllStringFunc(text, func(found string) string {
		all := strings.Split(elements.FindStringSubmatch(found)[1], ",")
		for i := range all {
			all[i] = strings.TrimSpace(all[i])
		}
		slices.Sort(all)
		return "elements = { " + strings.Join(all, ", ") + " }"
	})
}
