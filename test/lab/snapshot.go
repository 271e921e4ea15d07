package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Snapshot is everything that a namespace's network is made of, as text that
// is equal whenever nothing was changed: without counters, timers, indexes and
// what traffic alone moves.
type Snapshot []Section

// Section is one kind of object, e.g. routes.
type Section struct {
	Name  string
	Lines []string
}

// String prints the sections one after the other.
func (s Snapshot) String() string {
	var b strings.Builder
	for _, section := range s {
		fmt.Fprintf(&b, "# %s\n", section.Name)
		for _, line := range section.Lines {
			b.WriteString(line)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// Without returns the snapshot without the lines for which drop returns true.
func (s Snapshot) Without(drop func(section, line string) bool) Snapshot {
	out := make(Snapshot, len(s))
	for i, section := range s {
		out[i].Name = section.Name
		for _, line := range section.Lines {
			if !drop(section.Name, line) {
				out[i].Lines = append(out[i].Lines, line)
			}
		}
	}
	return out
}

// Snapshot takes a picture of the machine's network.
func (h *Host) Snapshot() Snapshot {
	h.t.Helper()
	s := Snapshot{
		{"links", h.links()},
		{"addresses", h.addresses()},
		{"routes", slices.Concat(
			h.objects("-4", "-details", "route", "show", "table", "all"),
			h.objects("-6", "-details", "route", "show", "table", "all"))},
		{"neighbours", slices.Concat(
			h.objects("neigh", "show", "nud", "permanent"),
			h.objects("neigh", "show", "proxy"))},
		{"rules", slices.Concat(h.objects("-4", "rule"), h.objects("-6", "rule"))},
		{"nft", ruleset(h.Run("nft", "--stateless", "list", "ruleset"))},
	}
	for _, tool := range []string{"iptables", "ip6tables"} {
		s = append(s, Section{tool, h.iptables(tool + "-nft-save")})
		s = append(s, Section{tool + "-legacy", h.legacy(tool)})
	}
	return append(s, Section{"sysctls", h.sysctls()}, Section{"sockets", h.Sockets()})
}

// volatile names what traffic, time or the order of making things changes. A
// bridge without a port has no carrier, which tells nothing that its ports do
// not tell.
var volatile = regexp.MustCompile(`^(ifindex|link_index|link_netnsid|operstate|promiscuity|allmulti|.*_timer|` +
	`topology_change.*|root_port|root_path_cost|designated_.*|bridge_id|root_id|state|num_._queues|` +
	`valid_life_time|preferred_life_time|expires|ageing|used|confirmed|updated|age|error|metrics|` +
	`gso_.*|tso_.*|gro_.*)$`)

var volatileFlags = regexp.MustCompile(`^(LOWER_UP|NO-CARRIER|M-DOWN|linkdown|dead)$`)

// links has a line for each attribute, so that a difference names it.
func (h *Host) links() []string {
	var lines []string
	for _, link := range h.list("-details", "link", "show") {
		name, _ := link["ifname"].(string)
		for key, value := range flatten("", link) {
			if key != "ifname" {
				lines = append(lines, fmt.Sprintf("%s: %s %s", name, key, value))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

func (h *Host) addresses() []string {
	var lines []string
	for _, link := range h.list("addr", "show") {
		addrs, _ := link["addr_info"].([]any)
		for _, addr := range addrs {
			if fields, ok := addr.(map[string]any); ok {
				lines = append(lines, fmt.Sprintf("%s: %s", link["ifname"], oneLine(fields)))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// objects has one line for each object that ip lists.
func (h *Host) objects(args ...string) []string {
	var lines []string
	for _, object := range h.list(args...) {
		lines = append(lines, oneLine(object))
	}
	slices.Sort(lines)
	return lines
}

func (h *Host) list(args ...string) []map[string]any {
	h.t.Helper()
	out := h.Run("ip", append([]string{"-json"}, args...)...)
	if strings.TrimSpace(out) == "" {
		return nil
	}
	var objects []map[string]any
	if err := json.Unmarshal([]byte(out), &objects); err != nil {
		h.t.Fatalf("ip %s: %v", strings.Join(args, " "), err)
	}
	return objects
}

func oneLine(object map[string]any) string {
	fields := flatten("", object)
	var words []string
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		words = append(words, key+"="+fields[key])
	}
	return strings.Join(words, " ")
}

// flatten turns nested JSON into dotted keys and leaves out what is volatile.
func flatten(prefix string, object map[string]any) map[string]string {
	out := map[string]string{}
	for key, value := range object {
		if volatile.MatchString(key) {
			continue
		}
		switch value := value.(type) {
		case map[string]any:
			maps.Copy(out, flatten(prefix+key+".", value))
		case []any:
			var words []string
			for _, word := range value {
				if text := fmt.Sprint(word); !volatileFlags.MatchString(text) {
					words = append(words, text)
				}
			}
			out[prefix+key] = strings.Join(words, ",")
		default:
			out[prefix+key] = fmt.Sprint(value)
		}
	}
	return out
}

// legacy looks at the tables of the older iptables only where there are some:
// looking makes them.
func (h *Host) legacy(tool string) []string {
	file := map[string]string{"iptables": "ip_tables_names", "ip6tables": "ip6_tables_names"}[tool]
	var names []byte
	h.Do(func() { names, _ = os.ReadFile("/proc/thread-self/net/" + file) })
	if len(names) == 0 {
		return nil
	}
	return h.iptables(tool + "-legacy-save")
}

var counters = regexp.MustCompile(`^(:\S+ \S+) \[\d+:\d+\]$`)

func (h *Host) iptables(save string) []string {
	h.t.Helper()
	var lines []string
	for _, line := range textLines(h.Run(save)) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, counters.ReplaceAllString(line, "$1"))
		}
	}
	return lines
}

// ruleset has each line of nft behind the table and the chain, set or map that it stands
// in, and these in order of their names: nft shows them in the order in which they were
// made, which decides nothing, and is another one after an engine's restart.
func ruleset(text string) []string {
	var path []string
	blocks := map[string][]string{}
	for _, line := range textLines(text) {
		// Of a table that somebody owns nft names the owner's program and process.
		line, _, _ = strings.Cut(strings.TrimSpace(line), " # progname ")
		switch {
		case line == "":
		case line == "}":
			path = path[:len(path)-1]
		case strings.HasSuffix(line, " {"):
			path = append(path, strings.TrimSuffix(line, " {"))
			blocks[strings.Join(path, ": ")] = nil
		default:
			name := strings.Join(path, ": ")
			blocks[name] = append(blocks[name], name+": "+line)
		}
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(blocks)) {
		lines = append(append(lines, name), blocks[name]...)
	}
	return lines
}

func textLines(text string) []string {
	text = strings.Trim(text, "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// sysctls lists all settings of interfaces and of bridges' firewall hooks, and
// the few others that decide where packets may go.
func (h *Host) sysctls() []string {
	var lines []string
	h.Do(func() {
		for _, pattern := range []string{
			"ipv4/conf/*/*", "ipv6/conf/*/*", "bridge/*",
			"ipv4/ip_forward", "ipv4/ip_nonlocal_bind", "ipv4/ip_local_port_range", "ipv4/ip_local_reserved_ports",
		} {
			files, _ := filepath.Glob(filepath.Join("/proc/sys/net", pattern))
			for _, file := range files {
				value, err := os.ReadFile(file)
				if err != nil {
					continue // stable_secret cannot be read before it is set
				}
				name := strings.TrimPrefix(file, "/proc/sys/")
				lines = append(lines, name+" = "+strings.Join(strings.Fields(string(value)), " "))
			}
		}
	})
	slices.Sort(lines)
	return lines
}
