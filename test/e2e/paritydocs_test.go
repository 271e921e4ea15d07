package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/spec"
	"github.com/drawbridge-net/drawbridge/test/golden"
	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/reach"
)

// Engines that are neither lab.Oldest nor lab.Newest as it comes. The first is on a host
// that forwarded before it came, so that it left the policy of FORWARD at ACCEPT.
const (
	forwarded  = "20.10 on a host that forwards"
	byNftables = "newest with nftables"
)

// tables are what becomes of the questions on networks of Docker's own, by kind.
type tables map[string]string

func tablesFile(engine string) string {
	return "testdata/bridge/" + strings.ReplaceAll(engine, " ", "-") + ".txt"
}

// readTables reads what was noted of an engine.
func readTables(t *testing.T, engine string) tables {
	t.Helper()
	text, err := os.ReadFile(tablesFile(engine))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	all := tables{}
	for section := range strings.SplitSeq(strings.TrimPrefix(string(text), "# "), "\n\n# ") {
		names, table, _ := strings.Cut(section, "\n\n")
		for name := range strings.SplitSeq(names, "\n# ") {
			all[name] = strings.TrimRight(table, "\n") + "\n"
		}
	}
	return all
}

// write notes them. Kinds that do not differ share a table.
func (all tables) write(t *testing.T, engine string) {
	t.Helper()
	var text strings.Builder
	for _, g := range group(func(k reach.Kind) (string, bool) { table, ok := all[k.Name]; return table, ok }) {
		if text.Len() > 0 {
			text.WriteString("\n")
		}
		fmt.Fprintf(&text, "# %s\n\n%s", strings.Join(g.kinds, "\n# "), g.text)
	}
	if err := os.WriteFile(tablesFile(engine), []byte(text.String()), 0o644); err != nil { //nolint:gosec // for everybody to read
		t.Fatal(err)
	}
}

// versionOf is the lab's word for an engine's version.
func versionOf(engine string) string {
	version, _, _ := strings.Cut(engine, " ")
	return version
}

// shows reports whether an engine's own networks can be of a kind.
func shows(version string, k reach.Kind) bool {
	return apis[version] >= directAccess.since || k.Network.Mode4 == spec.NAT && k.Other.Mode4 == spec.NAT
}

// grouped is what several kinds of network have in common.
type grouped struct {
	kinds []string
	text  string
}

// group groups kinds by what is told of them.
func group(of func(reach.Kind) (string, bool)) []grouped {
	var all []grouped
	for _, k := range reach.Kinds() {
		text, ok := of(k)
		if !ok {
			continue
		}
		i := slices.IndexFunc(all, func(g grouped) bool { return g.text == text })
		if i < 0 {
			all, i = append(all, grouped{text: text}), len(all)
		}
		all[i].kinds = append(all[i].kinds, k.Name)
	}
	return all
}

// beside is a table of ours as it is beside an engine as it comes. The table's 20.10
// writes rules for IPv6; without --ip6tables a process on the host serves its ports.
func beside(engine, table string) string {
	if versionOf(engine) == lab.Newest {
		return table
	}
	row := regexp.MustCompile(fmt.Sprintf(`(?m)^(host:%d +)(yes|drop)$`, reach.ByEngine))
	return row.ReplaceAllString(table, "$1$2 | as docker0")
}

// difference is one outcome that is another on networks of Docker's own.
type difference struct {
	to, from      string // e.g. host:8080, neighbour
	family        string // IPv4 or IPv6; "" for both
	ours, dockers string
	why           string // the heading of a reason
}

// differences compares two tables.
func differences(ours, dockers string) []difference {
	var all []difference
	theirs := cells(dockers)
	for _, c := range cells(ours) {
		i := slices.IndexFunc(theirs, func(o cell) bool { return o.to == c.to && o.from == c.from })
		o := theirs[i]
		switch four, six := c.ipv4 != o.ipv4, c.ipv6 != o.ipv6; {
		case four && six && c.ipv4 == c.ipv6 && o.ipv4 == o.ipv6:
			all = append(all, difference{c.to, c.from, "", c.ipv4, o.ipv4, ""})
		default:
			if four {
				all = append(all, difference{c.to, c.from, "IPv4", c.ipv4, o.ipv4, ""})
			}
			if six {
				all = append(all, difference{c.to, c.from, "IPv6", c.ipv6, o.ipv6, ""})
			}
		}
	}
	return all
}

// cell is one of a table's.
type cell struct{ to, from, ipv4, ipv6 string }

func cells(table string) []cell {
	blanks := regexp.MustCompile(`  +`)
	table = strings.NewReplacer("172.30.2.1", "o's gateway", "fd00:30:2::1", "o's gateway").Replace(table)
	var all []cell
	var head []string
	for line := range strings.Lines(table) {
		words := blanks.Split(strings.TrimSpace(line), -1)
		if head == nil {
			head = words
			continue
		}
		for i, word := range words[1:] {
			ipv4, ipv6, two := strings.Cut(word, " | ")
			if !two {
				ipv6 = ipv4
			}
			all = append(all, cell{words[0], head[i+1], ipv4, ipv6})
		}
	}
	return all
}

// TestDocsTellEachDifferenceFromDockersBridge makes docs/parity.md of the tables, which
// the scenarios hold to what real engines do.
func TestDocsTellEachDifferenceFromDockersBridge(t *testing.T) {
	ours, err := reach.Read("../../plan/testdata/reach")
	if err != nil {
		t.Fatal(err)
	}
	d := docs{t: t, ours: ours, rows: map[string]string{}, used: map[string]bool{}}
	var page strings.Builder
	err = template.Must(template.ParseFiles("testdata/parity.md")).Execute(&page, map[string]string{
		"Newest":    d.section(lab.Newest, ""),
		"Nftables":  d.section(byNftables, lab.Newest),
		"Oldest":    d.section(lab.Oldest, ""),
		"Forwarded": d.section(forwarded, lab.Oldest),
	})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, heading := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(page.String(), -1) {
		told = append(told, heading[1])
	}
	var known []string
	for _, r := range reasons() {
		known = append(known, r.heading)
		if !d.used[r.heading] {
			t.Errorf("nothing differs any more because of: %s", r.heading)
		}
	}
	if diff := cmp.Diff(told, known); diff != "" {
		t.Errorf("reasons that the page tells, and that there are (-told +known):\n%s", diff)
	}
	golden.Equal(t, "../../docs/parity.md", page.String())
}

// reason is why something becomes of a question on networks of ours, and something else on
// Docker's own. Under its heading the page tells it.
type reason struct {
	heading string
	pattern string // what because says of a difference, from end to end
}

// reasons are all there are. Where several match a difference, the first is it.
func reasons() []reason {
	return []reason{
		{"The client's own address", `.* by [aod]: .*: yes, as .*`},
		{"Answers that are shielded", `newest.*: .*not masqueraded: .* by a: both: yes, drop`},
		{"Ping among containers kept apart", `newest.*: routed, apart.*: ping [ab] by [ab]: both: drop, yes`},
		{"What other networks publish", `newest with nftables: .*internal.*: host:\d+ by a: both: drop, yes`},
		{"The container's address", `20\.10.*: a:80 by neighbour: both: drop, yes`},
		{"A policy of ACCEPT", `20\.10 on a host that forwards: .*: (a:81|ping a) by neighbour: both: drop, yes`},
		{"Processes serve IPv6", `20\.10.*: .*:808[01] by (outside|neighbour): IPv6: yes, as gateway`},
		{"No rules for IPv6", `20\.10.*: IPv6: .*`},
		{"Nothing between bridges", `20\.10.*not masqueraded: host:\d+ by a: IPv4: yes, drop`},
	}
}

// because is the heading of the reason for a difference; "" if there is none.
func because(engine, kind string, d difference) string {
	family := d.family
	if family == "" {
		family = "both"
	}
	text := fmt.Sprintf("%s: %s: %s by %s: %s: %s, %s", engine, kind, d.to, d.from, family, d.ours, d.dockers)
	for _, r := range reasons() {
		if regexp.MustCompile("^(?:" + r.pattern + ")$").MatchString(text) {
			return r.heading
		}
	}
	return ""
}

// link leads to a heading.
func link(heading string) string {
	text := strings.ToLower(heading[:1]) + heading[1:]
	return fmt.Sprintf("[%s](#%s)", text, strings.NewReplacer(" ", "-", "'", "").Replace(strings.ToLower(heading)))
}

// docs is the page in the making.
type docs struct {
	t    *testing.T
	ours reach.Golden
	rows map[string]string // what differs, by engine and kind
	used map[string]bool   // headings of reasons
}

// asAbove stands for the rows of an engine that was told of before.
const asAbove = "as above"

// section is what differs beside one engine. Of another, above it on the page, nothing is
// told twice.
func (p docs) section(engine, above string) string {
	p.t.Helper()
	theirs := readTables(p.t, engine)
	var b strings.Builder
	for _, g := range group(func(k reach.Kind) (string, bool) {
		if !shows(versionOf(engine), k) {
			return "", false
		}
		if theirs[k.Name] == "" {
			p.t.Fatalf("%s: nothing is noted of networks that are %s", engine, k.Name)
		}
		rows := p.tell(engine, k, theirs[k.Name])
		if rows != "" && rows == p.rows[above+k.Name] {
			rows = asAbove
		}
		return rows, true
	}) {
		kinds := "**" + strings.Join(g.kinds, "**; **") + "**"
		switch g.text {
		case "":
			fmt.Fprintf(&b, "\nNothing differs: %s\n", kinds)
		case asAbove:
			fmt.Fprintf(&b, "\nAs above: %s\n", kinds)
		default:
			fmt.Fprintf(&b, "\n%s\n\n| what | by | ours | Docker's | why |\n| --- | --- | --- | --- | --- |\n%s", kinds, g.text)
		}
	}
	return strings.TrimSpace(b.String())
}

// tell makes the rows of one kind of network. Differences that are alike but for what is
// asked for, or by whom, stand in one row.
func (p docs) tell(engine string, k reach.Kind, dockers string) string {
	p.t.Helper()
	neighbour := reach.Engines()[1]
	if versionOf(engine) == lab.Newest {
		neighbour = reach.Engines()[2]
	}
	all := differences(beside(engine, p.ours[reach.Of(k, neighbour)]), dockers)
	for i, d := range all {
		all[i].why = because(engine, k.Name, d)
		if all[i].why == "" {
			p.t.Fatalf("%s, %s: no reason for %+v", engine, k.Name, d)
		}
		p.used[all[i].why] = true
	}
	merge(&all, func(d *difference) *string { return &d.from })
	merge(&all, func(d *difference) *string { return &d.to })
	var b strings.Builder
	for _, d := range all {
		by := d.from
		if d.family != "" {
			by += " (" + d.family + ")"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", d.to, by, d.ours, d.dockers, link(d.why))
	}
	p.rows[engine+k.Name] = b.String()
	return b.String()
}

// merge joins differences that are alike but for one part.
func merge(all *[]difference, part func(*difference) *string) {
	var merged []difference
	for _, d := range *all {
		i := slices.IndexFunc(merged, func(m difference) bool {
			*part(&m) = *part(&d)
			return m == d
		})
		if i < 0 {
			merged = append(merged, d)
		} else {
			*part(&merged[i]) += ", " + *part(&d)
		}
	}
	*all = merged
}
