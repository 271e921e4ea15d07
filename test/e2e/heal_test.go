package e2e

import (
	"fmt"
	"maps"
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
		for i := range 7 { // ten in all
			s.Run(fmt.Sprintf("e%d", i), "--network", "web", "-p", fmt.Sprintf("%d:80", 9000+i))
		}
		h := s.healing(iptablesNFT)
		h.shut = true
		h.mends("", ownRulesTampered()[:3]...)
		h.mends("", slices.Concat(nftRulesTampered(), iptablesNFT.filterTampered(), ufwTampered())...)
		h.rules()
		h.shut = false
		h.mends("", slices.Concat(linksTampered(), linksAltered(), h.settingsTampered(h.bridgeName, h.veth))...)
		h.mends("", forwarding("0")...)
		h.mends("without ip_forward", h.settingsTampered("eth0")...)
		h.mends("", forwarding("1")...)
		s.Failpoints().Order("fail 0 ^nftables: own")
		s.serveWith()
		h.mends("without an owner", ownRulesTampered()...)
		s.Failpoints().Withdraw()

		h.slow = true
		s.serveWith("--firewall=iptables")
		h.mends("with iptables", slices.Concat(ownRulesTampered()[:1], nftRulesTampered(), iptablesNFT.chainsTampered(), ufwTampered())...)
		h.mends("with iptables", slices.Concat(linksTampered(), h.settingsTampered(h.bridgeName))...)
		s.serveWith() // or empty chains would go that were there before
		s.settled()
		h.end()
	})
}

// healing watches over what has to be mended.
type healing struct {
	*site
	t          *testing.T
	probes     *lab.Probes
	yardstick  *hello.Server
	bridgeName string
	veth       string
	tools      iptables     // which the engine uses
	slow       bool         // no tampering is told of as soon as it is done
	shut       bool         // nobody can take our rules away
	rules      func()       // puts back the engine's
	before     lab.Snapshot // the host, with all that is ours
}

func (s *site) healing(tools iptables) *healing {
	s.t.Helper()
	h := &healing{site: s, t: s.t, bridgeName: s.bridge("web"), tools: tools, rules: s.saved(tools)}
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

// end asks no more, and has the engine's rules as they were.
func (h *healing) end() {
	h.t.Helper()
	h.probes.Stop()
	h.yardstick.Close()
	h.rules()
}

// mends has somebody tamper in each of these ways with a host as it is now.
func (h *healing) mends(how string, all ...tampering) {
	h.t.Helper()
	h.settled()
	h.before = h.picture()
	restore := h.saved(h.tools) // with what is ours now
	for _, w := range all {
		w.name = strings.TrimPrefix(how+": "+w.name, ": ")
		h.mend(w, restore)
	}
}

// mend has somebody tamper, and waits until nobody can tell.
func (h *healing) mend(w tampering, restore func()) {
	h.t.Helper()
	limit := healsWithin
	if w.polled || h.slow {
		limit = pollsWithin
	}
	h.probes.Forget()
	h.tamper(w)
	changed := time.Now()
	var left []string
	alone := !w.wipes && w.undo == "" && !w.stays // what others have is in the picture
	if !alone {
		left = h.others()
	}
	gap := h.probes.Steady(w.name, changed, limit)
	if h.shut && gap.Passed > 0 {
		h.t.Errorf("%s: %s, and nobody can change our rules", w.name, gap)
	}
	if !alone {
		if diff := cmp.Diff(left, h.others()); diff != "" {
			h.t.Errorf("%s: rules of others (-as left +later):\n%s", w.name, diff)
		}
	}
	if w.undo != "" {
		h.must("sh", "-ec", w.undo)
	}
	if w.wipes {
		restore()
	}
	restored := time.Now()
	if w.stays {
		h.settled()
		h.before = h.picture()
	}
	h.isAsBefore(w.name, restored.Add(limit+h.probes.Slack()))
	h.t.Logf("%s: %s, all as before after %dms", w.name, gap, time.Since(changed).Milliseconds())
	if w.wipes || w.undo != "" {
		h.probes.Steady("after "+w.name, restored, limit)
	}
}

// tamper does it, unless the kernel has to refuse it.
func (h *healing) tamper(w tampering) {
	h.t.Helper()
	if w.ufw != "" {
		h.ufw(strings.Fields(w.ufw)...)
		return
	}
	_, err := h.shell(w.do)
	switch refused := h.shut && w.refused; {
	case refused && (err == nil || !strings.Contains(err.Error(), "Operation not permitted")):
		h.t.Errorf("%s: want it refused as not permitted, got %v", w.name, err)
	case !refused && err != nil:
		h.t.Errorf("%s: %v", w.name, err)
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
	return h.Host.Try("sh", "-ec", strings.NewReplacer("BR", h.bridgeName, "VE", h.veth).Replace(script))
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
	if maps.Equal(h.tools, iptablesLegacy) {
		all = append(all, h.rulesOfOthers(h.tools)...)
	}
	return all
}
