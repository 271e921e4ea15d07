package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// standing are the rules that stand in the kernel, in every chain of the tables that
// we use, as iptables prints them: what comes behind -A and the chain's name.
type standing map[place][]string

// look reads what stands in one family.
func (f *Firewall) look(ctx context.Context, family int) (standing, error) {
	if f.kind == Legacy {
		if there, err := hasTables(family); err != nil || !there {
			return standing{}, err
		}
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, f.command(family)+"-save")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read the rules of %s: %w: %s", f.command(family), err, strings.TrimSpace(stderr.String()))
	}
	seen, err := parse(string(out), family)
	if err != nil {
		return nil, fmt.Errorf("read the rules of %s: %w", f.command(family), err)
	}
	return seen, nil
}

// HasLegacy reports whether this network namespace has any rules of legacy iptables. It
// makes no tables and needs no command.
func HasLegacy() (bool, error) {
	there4, err4 := hasTables(4)
	there6, err6 := hasTables(6)
	return there4 || there6, errors.Join(err4, err6)
}

// hasTables reports whether x_tables has any table of the family. Asking it for rules
// would make one, and with it a hook that every packet passes.
func hasTables(family int) (bool, error) {
	name := "/proc/thread-self/net/ip_tables_names"
	if family == 6 {
		name = "/proc/thread-self/net/ip6_tables_names"
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return len(text) > 0, err
}

// parse understands iptables-save. A table into which somebody has put by nft what
// iptables does not understand is named in a comment, and its rules are not there.
func parse(text string, family int) (standing, error) {
	seen := standing{}
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		word, rest, _ := strings.Cut(line, " ")
		name, isChain := strings.CutPrefix(word, ":")
		switch {
		case strings.HasPrefix(line, "# Table") && strings.Contains(line, "is incompatible"):
			if slices.ContainsFunc(tables(), func(t string) bool { return strings.Contains(line, "`"+t+"'") }) {
				return nil, errors.New(strings.TrimPrefix(line, "# "))
			}
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case !slices.Contains(tables(), table):
		case isChain:
			seen[place{family, table, name}] = nil
		case word == "-A":
			chain, rule, _ := strings.Cut(rest, " ")
			at := place{family, table, chain}
			seen[at] = append(seen[at], rule)
		}
	}
	return seen, nil
}

// places are all chains in fixed order.
func (s standing) places() []place {
	var all []place
	for at := range s {
		all = append(all, at)
	}
	slices.SortFunc(all, comparePlaces)
	return all
}
