package e2e

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A tampering is what somebody does to a host who does not think of us.
type tampering struct {
	name string
	// do is for a shell. BR is the bridge of network web, VE the host's end of c1's pair.
	do string
	// ufw is for ufw instead, e.g. reload.
	ufw string
	// undo takes back what is not ours to mend.
	undo    string
	refused bool // by the kernel, where our tables are locked
	polled  bool // nothing tells of it
	wipes   bool // rules of the engine's go too
	stays   bool // the host is another one now
}

// ownRulesTampered are about our own tables, those first that are tried where they are locked.
func ownRulesTampered() []tampering {
	const saved = "saved=$(nft list table inet drawbridge && nft list table bridge drawbridge)"
	return []tampering{
		{name: "nft flush ruleset", do: "nft flush ruleset", wipes: true},
		{name: "nft delete table", do: "nft 'delete table inet drawbridge; delete table bridge drawbridge'", refused: true},
		{name: "a saved ruleset is restored", do: saved + `; printf 'flush ruleset\n%s\n' "$saved" | nft -f -`, refused: true, wipes: true},
		{name: "our chain is emptied", do: "nft flush chain inet drawbridge prerouting; nft flush chain inet drawbridge postrouting"},
		{name: "a chain of ours is deleted", do: "nft delete chain inet drawbridge postrouting"},
		{name: "one element of ours is deleted", do: "nft delete element inet drawbridge ports_any4 { tcp . 8080 }; nft delete element inet drawbridge ports_any6 { tcp . 8080 }"},
		{name: "all elements of a set of ours are deleted", do: "nft flush set inet drawbridge bridges; nft flush set inet drawbridge masquerade4"},
		{name: "our drops are overtaken", do: "nft insert rule inet drawbridge forward accept"},
	}
}

// nftRulesTampered are about everybody's tables.
func nftRulesTampered() []tampering {
	return []tampering{
		{
			name: "systemctl reload nftables", // of a Debian as it comes
			do: `nft -f - <<'END'
				flush ruleset
				table inet filter {
					chain input { type filter hook input priority filter; }
					chain forward { type filter hook forward priority filter; }
					chain output { type filter hook output priority filter; }
				}
END`,
			undo:  "nft delete table inet filter",
			wipes: true,
		},
		{
			name: "a table that accepts all ahead of ours",
			do: `nft add table inet early; nft add chain inet early forward '{ type filter hook forward priority -300; }'; nft add rule inet early forward accept
				nft add chain inet early prerouting '{ type nat hook prerouting priority -150; }'; nft add rule inet early prerouting accept`,
			undo: "nft delete table inet early",
		},
	}
}

// filterTampered are about the rules of an engine in iptables, and the accepts that we have
// among them.
func (tools iptables) filterTampered() []tampering {
	return []tampering{
		{name: "iptables -P FORWARD DROP", do: tools.each("-P FORWARD DROP"), wipes: true},
		{name: "iptables -F, -P FORWARD DROP", do: tools.each("-F", "-P FORWARD DROP"), wipes: true},
		{name: "iptables -X", do: tools.each("-F", "-X"), wipes: true},
		{name: "iptables -t nat -F", do: tools.each("-t nat -F"), wipes: true},
		{name: "iptables -A FORWARD -j REJECT", do: tools.each("-A FORWARD -j REJECT"), wipes: true},
		{name: "iptables -I FORWARD 1 -j ACCEPT", do: tools.each("-I FORWARD 1 -j ACCEPT"), wipes: true},
	}
}

// chainsTampered are about our own chains of iptables.
func (tools iptables) chainsTampered() []tampering {
	return []tampering{
		{name: "iptables -F, -P FORWARD DROP", do: tools.each("-F", "-P FORWARD DROP"), wipes: true},
		{name: "iptables -t nat -F", do: tools.each("-t nat -F"), wipes: true},
		{name: "iptables -t raw -F", do: tools.each("-t raw -F")},
		{name: "iptables -t mangle -F", do: tools.each("-t mangle -F")},
		{name: "iptables -t mangle -I FORWARD 1 -j ACCEPT", do: tools.each("-t mangle -I FORWARD 1 -j ACCEPT"), wipes: true},
		{name: "all rules and chains of every table are gone", do: tools.emptied("raw", "mangle", "nat", "filter"), wipes: true},
	}
}

// each gives these words to the command of each family.
func (tools iptables) each(words ...string) string {
	var script strings.Builder
	for _, tool := range slices.Sorted(maps.Values(tools)) {
		for _, w := range words {
			fmt.Fprintf(&script, "%s %s\n", tool, w)
		}
	}
	return script.String()
}

// emptied has tables lose their rules and chains at once: ours could be back after the rules
// have gone, and nobody can delete a chain that is used.
func (tools iptables) emptied(tables ...string) string {
	var script strings.Builder
	for _, tool := range slices.Sorted(maps.Values(tools)) {
		fmt.Fprintf(&script, "printf '*%%s\\nCOMMIT\\n' %s | %s-restore\n", strings.Join(tables, " "), tool)
	}
	return script.String()
}

// ufwTampered is what its user does.
func ufwTampered() []tampering {
	return []tampering{
		{name: "ufw enable", ufw: "--force enable", stays: true},
		{name: "ufw reload", ufw: "reload"},
		{name: "ufw disable", ufw: "disable", stays: true},
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
		{name: "a port is taken off the bridge", do: "ip link set VE nomaster"},
		{name: "a port is put on another bridge", do: "ip link add theirs type bridge; ip link set theirs up; ip link set VE master theirs", undo: "ip link del theirs"},
		{name: "a port is set down", do: "ip link set VE down"},
	}
}

// linksAltered are about what else bridges and ends of pairs have. What was renamed may have
// its name again by the time that it is set up.
func linksAltered() []tampering {
	return []tampering{
		{name: "the bridge and a port have another MTU", do: "ip link set BR mtu 1280; ip link set VE mtu 1280"},
		{name: "the bridge and a port have another MAC", do: "ip link set BR address 02:00:00:00:77:01; ip link set VE address 02:00:00:00:77:02"},
		{name: "the bridge and a port have no alias", do: "ip link set BR alias ''; ip link set VE alias ''"},
		{name: "the bridge and a port have another alias", do: "ip link set BR alias 'mine now'; ip link set VE alias 'mine now'"},
		{name: "the bridge is renamed", do: "ip link set BR down; ip link set BR name mine; ip link set mine up || ip link set BR up"},
		{name: "the bridge has a spanning tree", do: "ip link set BR type bridge stp_state 1 forward_delay 1500"},
		{name: "a port has an address", do: "ip addr add 10.78.0.1/24 dev VE"},
		{name: "a port is renamed", do: "ip link set VE down; ip link set VE name mine; ip link set mine up || ip link set VE up"},
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
