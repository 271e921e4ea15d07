package firewalld

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// unheard warns of a firewalld that runs where there is no bus to tell it anything by: a
// managed plugin has no part in the host's. Whether somebody has bound the bridges is
// not known then.
func (z *Zones) unheard(wanted planned) []string {
	if _, err := os.Stat(z.socket); err == nil || len(wanted) == 0 || !stands() {
		return nil
	}
	names := slices.Sorted(maps.Keys(wanted))
	var commands []string
	for _, name := range names {
		commands = append(commands, bindBy("firewall-cmd", name))
		if wanted[name].Bridge.Named {
			commands = append(commands, bindBy("firewall-cmd --permanent", name))
		}
	}
	return []string{fmt.Sprintf("firewalld runs, and there is no bus to tell it of our bridges by (a managed plugin has none): "+
		"it rejects what leaves %s, unless you bind them: %s", strings.Join(names, ", "), strings.Join(commands, "; "))}
}

// bindBy is a command for a person. What is permanent stays after the network, and hence
// is for names that the same person chose.
func bindBy(command, bridge string) string {
	return command + " --zone=" + builtIn + " --add-interface=" + bridge
}

// stands reports whether the kernel has firewalld's own table.
func stands() bool {
	conn, err := nftables.New()
	if err != nil {
		return false // a kernel without nf_tables
	}
	_, err = conn.ListTableOfFamily("firewalld", nftables.TableFamilyINet)
	return err == nil
}
