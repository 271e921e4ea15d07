package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// What a person may wait for after a tool's last change, and what is asserted: four times
// that, since the machine that runs the tests is busy.
const (
	healsWithin = 4 * 250 * time.Millisecond
	// pollsWithin is for what has no event, and for iptables, which is a process a look.
	pollsWithin = 4 * 5 * time.Second
)

// A tampering is what somebody does to a host who does not think of us.
type tampering struct {
	name string
	// do is for a shell. BR is the bridge of network web, VE the host's end of c1's pair.
	do string
	// ufw is for ufw instead, e.g. reload.
	ufw string
	// undo takes back what is not ours to mend.
	undo   string
	polled bool // nothing tells of it
	wipes  bool // rules of the engine's go too
	stays  bool // the host is another one now
}

// TestEngineWhateverIsTamperedWithIsMended is about tools that change what is ours or what
// ours depends on: who asks notices for a moment at most, and what is not ours stays as
// the tool has left it.
func TestEngineWhateverIsTamperedWithIsMended(t *testing.T) {
	prepare := func(s *site) {
		s.Failpoints()
		warmUpIPv6(s)
		leavesTables(s)
		s.installUfw()
		s.saved(iptablesNFT)()
	}
	eachEngineAfter(t, prepare, func(s *site) {
		s.webAndOther()
		h := s.healing()
		h.mends("", slices.Concat(ownRulesTampered()[:2], rulesTampered()[1:], linksTampered(), h.settingsTampered(h.bridgeName, h.veth))...)
		h.mends("", tampering{ufw: "--force enable", stays: true}, tampering{ufw: "reload"}, tampering{ufw: "disable", stays: true})
		h.rules()
		h.mends("", forwarding("0")...)
		h.mends("without ip_forward", h.settingsTampered("eth0")...)
		h.mends("", forwarding("1")...)
		s.Failpoints().Order("fail 0 ^nftables: own")
		s.serveWith()
		h.mends("without an owner", ownRulesTampered()...)
		s.Failpoints().Withdraw()
		if s.Version() == lab.Newest {
			h.slow = true
			s.serveWith("--firewall=iptables")
			h.mends("with iptables", chainsTampered()...)
			s.serveWith() // or empty chains would go that were there before
			s.settled()
		}
		h.probes.Stop()
		h.yardstick.Close()
		h.rules()
	})
}

// ownRulesTampered are about our own tables.
func ownRulesTampered() []tampering {
	return []tampering{
		{name: "nft flush ruleset", do: "nft flush ruleset", wipes: true},
		{name: "nft delete table", do: "nft delete table inet drawbridge; nft delete table bridge drawbridge"},
		{name: "our chain is emptied", do: "nft flush chain inet drawbridge prerouting; nft flush chain inet drawbridge postrouting"},
		{name: "a chain of ours is deleted", do: "nft delete chain inet drawbridge postrouting"},
		{name: "one element of ours is deleted", do: "nft delete element inet drawbridge ports_any4 { tcp . 8080 }; nft delete element inet drawbridge ports_any6 { tcp . 8080 }"},
		{name: "all elements of a set of ours are deleted", do: "nft flush set inet drawbridge bridges; nft flush set inet drawbridge masquerade4"},
		{name: "our drops are overtaken", do: "nft insert rule inet drawbridge forward accept"},
	}
}

// rulesTampered are about everybody's tables.
func rulesTampered() []tampering {
	const each = "for t in iptables-nft ip6tables-nft; do "
	return []tampering{
		{name: "nft flush ruleset", do: "nft flush ruleset", wipes: true},
		{name: "iptables -P FORWARD DROP", do: each + "$t -P FORWARD DROP; done", wipes: true},
		{name: "iptables -F, -P FORWARD DROP", do: each + "$t -F; $t -P FORWARD DROP; done", wipes: true},
		{name: "iptables -X", do: each + "$t -F; $t -X || true; done", wipes: true},
		{name: "iptables -t nat -F", do: each + "$t -t nat -F; done", wipes: true},
		{name: "iptables -A FORWARD -j REJECT", do: each + "$t -A FORWARD -j REJECT; done", wipes: true},
		{name: "iptables -I FORWARD 1 -j ACCEPT", do: each + "$t -I FORWARD 1 -j ACCEPT; done", wipes: true},
		{
			name: "a table that accepts all ahead of ours",
			do: `nft add table inet early; nft add chain inet early forward '{ type filter hook forward priority -300; }'; nft add rule inet early forward accept
				nft add chain inet early prerouting '{ type nat hook prerouting priority -150; }'; nft add rule inet early prerouting accept`,
			undo: "nft delete table inet early",
		},
	}
}

// chainsTampered are about our chains of iptables.
func chainsTampered() []tampering {
	return []tampering{
		{name: "nft flush ruleset", do: "nft flush ruleset", wipes: true},
		{name: "iptables -F, -P FORWARD DROP", do: "for t in iptables-nft ip6tables-nft; do $t -F; $t -P FORWARD DROP; done", wipes: true},
		{name: "iptables -t nat -F", do: "for t in iptables-nft ip6tables-nft; do $t -t nat -F; done", wipes: true},
		{name: "iptables -t raw -F", do: "iptables-nft -t raw -F; ip6tables-nft -t raw -F"},
		{name: "iptables -t mangle -F", do: "iptables-nft -t mangle -F; ip6tables-nft -t mangle -F"},
		{name: "iptables -t mangle -I FORWARD 1 -j ACCEPT", do: "iptables-nft -t mangle -I FORWARD 1 -j ACCEPT; ip6tables-nft -t mangle -I FORWARD 1 -j ACCEPT", wipes: true},
	}
}

// linksTampered are about bridges and ends of pairs, as who manages networks claims them.
func linksTampered() []tampering {
	return []tampering{
		{name: "the bridge is deleted", do: "ip link del BR"},
		{name: "the bridge is set down", do: "ip link set BR down"},
		{name: "the bridge's IPv4 address is removed", do: "ip addr del 172.30.1.1/24 dev BR"},
		{name: "the bridge's IPv6 address is removed", do: "ip addr del fd00:30:1::1/64 dev BR"},
		{name: "all addresses of the bridge are removed", do: "ip addr flush dev BR"},
		{name: "an address of somebody's is on the bridge", do: "ip addr add 172.30.1.1/16 dev BR; ip addr add 10.77.0.1/24 dev BR"},
		{name: "the bridge and a port have another MTU", do: "ip link set BR mtu 1280; ip link set VE mtu 1280"},
		{name: "the bridge and a port have another MAC", do: "ip link set BR address 02:00:00:00:77:01; ip link set VE address 02:00:00:00:77:02"},
		{name: "the bridge and a port have no alias", do: "ip link set BR alias ''; ip link set VE alias ''"},
		{name: "the bridge and a port have another alias", do: "ip link set BR alias 'mine now'; ip link set VE alias 'mine now'"},
		{name: "the bridge is renamed", do: "ip link set BR down; ip link set BR name mine; ip link set mine up"},
		{name: "the bridge has a spanning tree", do: "ip link set BR type bridge stp_state 1 forward_delay 1500"},
		{name: "a port is taken off the bridge", do: "ip link set VE nomaster"},
		{name: "a port is put on another bridge", do: "ip link add theirs type bridge; ip link set theirs up; ip link set VE master theirs", undo: "ip link del theirs"},
		{name: "a port is set down", do: "ip link set VE down"},
		{name: "a port has an address", do: "ip addr add 10.78.0.1/24 dev VE"},
		{name: "a port is renamed", do: "ip link set VE down; ip link set VE name mine; ip link set mine up"},
		{name: "a port is isolated and has no hairpin", do: "bridge link set dev VE isolated on hairpin off"},
		{name: "all links are set down", do: "for l in $(ip -br link | grep ^db | cut -d@ -f1 | cut -d' ' -f1); do ip link set $l down; done"},
	}
}

// forwarding has the host's own switches set.
func forwarding(value string) []tampering {
	set := func(file string) tampering {
		return tampering{name: file + " is " + value, do: "echo " + value + " >/proc/sys/net/" + file, stays: true}
	}
	return []tampering{set("ipv4/ip_forward"), set("ipv6/conf/all/forwarding")}
}

// Lines of drawbridge plan, and the settings in them.
var (
	plannedLink    = regexp.MustCompile(`^\s*(?:link|uplink) (\S+) `)
	plannedSetting = regexp.MustCompile(`ipv([46])\.(\w+)=(\d+)`)
)

// evented are the settings whose changes the kernel tells of.
var evented = map[string]bool{"forwarding": true, "force_forwarding": true}

// autoconfigured are those that cut nobody off, which are waited for together.
var autoconfigured = map[string]bool{"accept_ra": true, "autoconf": true, "accept_dad": true}

// settingsTampered are about br_netfilter's switches, and about each sysctl of these links
// that is planned.
func (h *healing) settingsTampered(links ...string) []tampering {
	h.t.Helper()
	out, err := h.Drawbridge("plan")
	if err != nil {
		h.t.Fatal(err)
	}
	const bridged = "for f in ip ip6; do echo 0 >/proc/sys/net/bridge/bridge-nf-call-${f}tables; done"
	all := []tampering{{name: "net.bridge.bridge-nf-call-* are 0", do: bridged, undo: strings.ReplaceAll(bridged, "0", "1"), polled: true}}
	quiet := tampering{polled: true}
	for line := range strings.Lines(out) {
		link := plannedLink.FindStringSubmatch(line)
		if link == nil || !slices.Contains(links, link[1]) {
			continue
		}
		for _, set := range plannedSetting.FindAllStringSubmatch(line, -1) {
			other := "1"
			if set[3] == "1" {
				other = "0"
			}
			w := tampering{
				name:   fmt.Sprintf("ipv%s.%s of %s", set[1], set[2], strings.NewReplacer(h.bridgeName, "the bridge", h.veth, "a port").Replace(link[1])),
				do:     fmt.Sprintf("echo %s >/proc/sys/net/ipv%s/conf/%s/%s", other, set[1], link[1], set[2]),
				polled: !evented[set[2]],
			}
			if autoconfigured[set[2]] {
				quiet.name, quiet.do = strings.TrimPrefix(quiet.name+", "+w.name, ", "), quiet.do+w.do+"; "
				continue
			}
			all = append(all, w)
		}
	}
	if quiet.do != "" {
		all = append(all, quiet)
	}
	return all
}

// healing watches over what has to be mended.
type healing struct {
	*site
	t          *testing.T
	probes     *lab.Probes
	yardstick  *hello.Server
	bridgeName string
	veth       string
	slow       bool         // no tampering is told of as soon as it is done
	rules      func()       // puts back the engine's
	before     lab.Snapshot // the host, with all that is ours
}

func (s *site) healing() *healing {
	s.t.Helper()
	h := &healing{site: s, t: s.t, bridgeName: s.bridge("web"), rules: s.saved(iptablesNFT)}
	h.veth = "dbv" + s.inspect("{{.NetworkSettings.Networks.web.EndpointID}}", "c1")[:12]
	c1, c2, d1 := s.Inside("c1"), s.Inside("c2"), s.Inside("d1")
	asks, forbidden := map[string]lab.Question{}, map[string]lab.Question{}
	for name, f := range both {
		own := join(f.address(s, "c1", "web"), "80")
		asks["from outside by "+name] = answers(s.Outside, join(f.host(s), "8080"), "c1")
		asks["to outside by "+name] = answers(c1, join(f.internet, "80"), "outside")
		asks["beside by "+name] = answers(c2, own, "c1")
		forbidden["from another network by "+name] = answers(d1, own, "c1")
	}
	asks["from the host by 127.0.0.1"] = answers(s.Host, "127.0.0.1:8080", "c1")
	h.yardstick = s.Host.Serve("tcp", ":7000")
	h.probes = lab.Probe(s.t, answers(s.Outside, join(s.Host.Addr.String(), "7000"), "host"), asks, forbidden)
	h.probes.Steady("before", time.Now(), healsWithin)
	return h
}

// answers asks a server, who has to be this one.
func answers(from *lab.Host, to, server string) lab.Question {
	return func(wait time.Duration) error {
		got, err := from.AskFor("tcp", to, wait)
		if err == nil && got.Server != server {
			return fmt.Errorf("%s answers", got.Server)
		}
		return err
	}
}

func (h *healing) mends(how string, all ...tampering) {
	h.t.Helper()
	h.settled()
	h.before = h.picture()
	for _, w := range all {
		w.name = strings.TrimPrefix(how+": "+w.name, ": ")
		h.mend(w)
	}
}

// mend has somebody tamper, and waits until nobody can tell.
func (h *healing) mend(w tampering) {
	h.t.Helper()
	limit := healsWithin
	if w.polled || h.slow {
		limit = pollsWithin
	}
	h.probes.Forget()
	var refused error
	if w.ufw != "" {
		w.name = "ufw " + w.ufw
		h.ufw(strings.Fields(w.ufw)...)
	} else {
		_, refused = h.shell(w.do)
	}
	changed := time.Now()
	left := h.others()
	gap := h.probes.Steady(w.name, changed, limit)
	if diff := cmp.Diff(left, h.others()); diff != "" {
		h.t.Errorf("%s: rules of others (-as left +later):\n%s", w.name, diff)
	}
	if w.wipes {
		h.rules()
	}
	if w.undo != "" {
		h.must("sh", "-ec", w.undo)
	}
	restored := time.Now()
	if w.stays {
		h.settled()
		h.before = h.picture()
	}
	h.isAsBefore(w.name, restored.Add(limit+h.probes.Slack()))
	took := time.Since(changed)
	why := ""
	if refused != nil {
		why = "; it was refused: " + refused.Error()
	}
	h.t.Logf("%s: %s, all as before after %dms%s", w.name, gap, took.Milliseconds(), why)
	if w.wipes || w.undo != "" {
		h.probes.Steady("after "+w.name, time.Now(), limit)
	}
}

// isAsBefore waits until the host, what is ours on it and what is not, is as it was, which
// it must be from a moment on.
func (h *healing) isAsBefore(what string, from time.Time) {
	h.t.Helper()
	for last := false; !last; {
		last = time.Now().After(from)
		now := h.picture()
		diff := h.before.Diff(now)
		if diff == "" {
			return
		}
		if last {
			h.t.Errorf("%s: the host is not as before:\n%s", what, diff)
			h.before = now
		}
	}
}

// portNumber is what a bridge calls its ports by, in the order in which they came.
var portNumber = regexp.MustCompile(`: linkinfo\.info_slave_data\.(id|no) `)

// picture is all that must be as before. What iptables writes is told by iptables alone, and
// which of our networks' accepts comes first means nothing.
func (h *healing) picture() lab.Snapshot {
	h.t.Helper()
	p := h.Host.Snapshot().Without(func(section, line string) bool {
		return portNumber.MatchString(line) || strings.HasSuffix(line, " drawbridge: flags") || section == "nft" && (strings.HasPrefix(line, "table ip ") || strings.HasPrefix(line, "table ip6 "))
	})
	for _, section := range p {
		accept := func(line string) bool { return strings.Contains(line, "drawbridge network") }
		if from := slices.IndexFunc(section.Lines, accept); strings.HasPrefix(section.Name, "ip") && from >= 0 {
			to := from
			for to < len(section.Lines) && accept(section.Lines[to]) {
				to++
			}
			slices.Sort(section.Lines[from:to])
		}
	}
	return p
}

func (h *healing) shell(script string) (string, error) {
	return h.Host.Try("sh", "-c", strings.NewReplacer("BR", h.bridgeName, "VE", h.veth).Replace(script))
}

// others are all rules and policies that are not ours.
func (h *healing) others() []string {
	h.t.Helper()
	var all []string
	var table, chain string
	for line := range strings.Lines(h.Host.Run("nft", "--stateless", "list", "ruleset")) {
		line = strings.TrimSpace(line)
		switch words := strings.Fields(line); {
		case strings.HasPrefix(line, "table "):
			table = line
		case strings.HasPrefix(line, "chain "):
			chain = words[1]
		case strings.Contains(table, "drawbridge") || strings.Contains(strings.ToLower(chain+line), "drawbridge") || strings.Contains(line, `"dbr`):
		case line == "" || line == "}" || strings.HasSuffix(line, "policy accept;"):
		default:
			all = append(all, table+" "+chain+" "+line)
		}
	}
	return all
}
