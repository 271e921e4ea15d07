package foreign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drawbridge-net/drawbridge/plan"
)

// readLegacy reads x_tables' side. Looking at a table there makes it, and with it
// a hook that every packet passes: so only those that exist are looked at.
func readLegacy(ctx context.Context) ([]filter, error) {
	var filters []filter
	for _, c := range []plan.Chain{{Family: 4, Kind: kindLegacy}, {Family: 6, Kind: kindLegacy}} {
		there, err := exists(c)
		if err != nil {
			return nil, err
		}
		if !there {
			continue
		}
		text, err := list(ctx, c)
		switch {
		case errors.Is(err, exec.ErrNotFound):
			filters = append(filters, filter{Chain: c, hidden: err})
		case err != nil:
			return nil, err
		default:
			filters = append(filters, newFilter(c, text))
		}
	}
	return filters, nil
}

func newFilter(c plan.Chain, text string) filter {
	f, l := filter{Chain: c}, parse(text)
	f.forward = l.of(forward)
	follow(f.forward, l.of)
	f.drops = dropsRest(l.policy == "DROP", f.forward)
	for chain := range l.rules {
		if tells(chain) {
			f.engines, f.shields = bridges(f.engines, chain, l.of(chain)), f.shields || shields(chain)
		}
	}
	slices.Sort(f.engines)
	return f
}

// exists reports whether x_tables has a filter table of the chain's family.
func exists(c plan.Chain) (bool, error) {
	name := "/proc/thread-self/net/ip_tables_names"
	if c.Family == 6 {
		name = "/proc/thread-self/net/ip6_tables_names"
	}
	tables, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // a kernel without x_tables
	}
	return slices.Contains(strings.Fields(string(tables)), "filter"), err
}

// list is the text of a whole filter table, which one process reads about as fast
// as one chain of it.
func list(ctx context.Context, c plan.Chain) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, command(c), "--table", "filter", "--list-rules", "--wait", strconv.Itoa(lockWait))
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("read the rules of %s: %w: %s", command(c), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

const pollEvery = 2 * time.Second

// Watch calls wake once at its beginning and whenever the rules of legacy iptables
// have changed, until ctx ends. They have no events, so it polls; those of nftables
// do, and are not its business.
func (r *Rules) Watch(ctx context.Context, wake func()) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	before, beforeErr := readLegacy(ctx)
	wake() // what has changed since somebody last looked
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// Whoever takes away at once what we have just written leaves the rules as
		// they were before.
		wrote := r.wrote.Swap(false)
		now, err := readLegacy(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if wrote || !reflect.DeepEqual(before, now) || (err == nil) != (beforeErr == nil) {
			wake() // an error too: who looks will meet it and say so
		}
		before, beforeErr = now, err
	}
}
