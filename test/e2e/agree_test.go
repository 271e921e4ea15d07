package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// A view is what somebody believes that there is of Drawbridge's, as lines that can be
// compared, e.g. "network 3f2a…".
type view map[string]bool

// minus are the lines of a view that another one has not.
func (v view) minus(o view) []string {
	var all []string
	for _, line := range slices.Sorted(maps.Keys(v)) {
		if !o[line] {
			all = append(all, line)
		}
	}
	return all
}

// agree waits until Docker, Drawbridge and the kernel agree on what there is.
func (s *site) agree(when string) { s.t.Helper(); s.agreeBut(when, 0) }

// agreeBut is agree where Docker may have forgotten without a word, so many starts of
// containers: Drawbridge has their endpoints and addresses for minutes, for Docker may
// still come back to them.
func (s *site) agreeBut(when string, forgotten int) {
	s.t.Helper()
	lab.Until(s.t, "Docker, Drawbridge and the kernel agree "+when, func() error { return s.disagreement(forgotten) })
}

func (s *site) disagreement(forgotten int) error {
	told, err := s.told()
	if err != nil {
		return err
	}
	docker, err := s.dockersView()
	if err != nil {
		return err
	}
	var errs []error
	if missing := docker.minus(told.ours); len(missing) > 0 {
		errs = append(errs, fmt.Errorf("Docker has and Drawbridge has not: %q", missing))
	}
	surplus := slices.DeleteFunc(told.ours.minus(docker), func(line string) bool {
		return forgotten > 0 && !strings.HasPrefix(line, "network ")
	})
	if len(surplus) > 0 {
		errs = append(errs, fmt.Errorf("Drawbridge has and Docker has not: %q", surplus))
	}
	kernel := s.kernelsView()
	if odd := append(kernel.minus(told.kernel), told.kernel.minus(kernel)...); len(odd) > 0 {
		errs = append(errs, fmt.Errorf("Drawbridge and the kernel do not agree on %q", odd))
	}
	if most := told.addresses + 2*forgotten; told.status.Leases < told.addresses || told.status.Leases > most {
		errs = append(errs, fmt.Errorf("%d addresses are given away, want %d to %d", told.status.Leases, told.addresses, most))
	}
	return errors.Join(append(errs, told.status.wrong())...)
}

// status is what the command of that name prints.
type status struct {
	Leases            int
	Drift             []json.RawMessage
	Warnings, Notices []string
}

func (st status) wrong() error {
	var errs []error
	for _, d := range st.Drift {
		errs = append(errs, fmt.Errorf("drift: %s", d))
	}
	for _, n := range slices.Concat(st.Warnings, st.Notices) {
		if strings.Contains(n, "Docker has no") {
			errs = append(errs, errors.New(n))
		}
	}
	return errors.Join(errs...)
}

// told is what Drawbridge says.
type told struct {
	ours      view // as Docker should see it
	kernel    view // as the kernel should
	addresses int  // of endpoints
	status    status
}

func (s *site) told() (t told, err error) {
	t.ours, t.kernel = view{}, view{}
	var networks []struct{ ID, Bridge string }
	var endpoints []struct {
		ID, Network, Link string
		Addresses, Ports  []string
	}
	for args, into := range map[string]any{"networks": &networks, "ps": &endpoints, "status": &t.status} {
		out, err := s.Drawbridge(args, "--json", "--docker-socket", "/run/docker.sock")
		if jsonErr := json.Unmarshal([]byte(out), into); jsonErr != nil {
			return t, fmt.Errorf("drawbridge %s: %w: %s", args, cmp.Or(err, jsonErr), out)
		}
	}
	for _, n := range networks {
		t.ours["network "+n.ID] = true
		t.kernel["link "+n.Bridge] = true
	}
	for _, ep := range endpoints {
		t.kernel["link "+ep.Link] = true
		t.ours["endpoint "+ep.ID+" of "+ep.Network] = true
		for _, a := range ep.Addresses {
			t.ours["address "+a+" of "+ep.ID] = true
			t.addresses++
		}
		for _, p := range ep.Ports {
			if match := publishedPort.FindStringSubmatch(p); match != nil {
				t.kernel["port "+match[1]+"/"+match[2]] = true
			}
		}
	}
	return t, nil
}

// publishedPort is a single port as ps shows it, and as the kernel shows its socket.
var (
	publishedPort = regexp.MustCompile(`:(\d+)->\d+/(\w+)`)
	socket        = regexp.MustCompile(`^(\w+) .*:(\d+) (?:bound|listens)$`)
	ourLink       = regexp.MustCompile(`(?m)^\d+: (db[rvp][0-9a-f]{12})[@:]`)
)

// staleEndpoint is how Docker marks an endpoint in which no container is: an engine died on
// the way to its end, and believes for ever that it is there.
const staleEndpoint = "ep-"

// members are the names of those whom Docker shows on a network, by its key for each: a
// container's ID, or staleEndpoint and an endpoint's.
func (s *site) members(network string) map[string]string {
	s.t.Helper()
	var members map[string]struct{ Name string }
	if err := json.Unmarshal([]byte(s.Docker("network", "inspect", "-f", "{{json .Containers}}", network)), &members); err != nil {
		s.t.Fatal(err)
	}
	names := map[string]string{}
	for key, m := range members {
		names[key] = m.Name
	}
	return names
}

func (s *site) dockersView() (view, error) {
	v := view{}
	ids, err := s.TryDocker("network", "ls", "-q", "--no-trunc", "--filter", "driver="+s.driver)
	if err != nil || strings.TrimSpace(ids) == "" {
		return v, err
	}
	out, err := s.TryDocker(append([]string{"network", "inspect"}, strings.Fields(ids)...)...)
	if err != nil {
		return v, err
	}
	var networks []struct {
		ID         string
		Containers map[string]struct{ EndpointID, IPv4Address, IPv6Address string }
	}
	if err := json.Unmarshal([]byte(out), &networks); err != nil {
		return v, fmt.Errorf("docker network inspect: %w", err)
	}
	for _, n := range networks {
		v["network "+n.ID] = true
		for key, c := range n.Containers {
			if strings.HasPrefix(key, staleEndpoint) {
				continue
			}
			v["endpoint "+c.EndpointID+" of "+n.ID] = true
			for _, a := range []string{c.IPv4Address, c.IPv6Address} {
				if a != "" {
					v["address "+a+" of "+c.EndpointID] = true
				}
			}
		}
	}
	return v, nil
}

func (s *site) kernelsView() view {
	s.t.Helper()
	v := view{}
	for _, match := range ourLink.FindAllStringSubmatch(s.Host.Run("ip", "-o", "link"), -1) {
		if !strings.HasPrefix(match[1], "dbp") { // the other end of a pair that nobody is in
			v["link "+match[1]] = true
		}
	}
	for _, line := range s.Host.Sockets() {
		if match := socket.FindStringSubmatch(line); match != nil {
			v["port "+match[2]+"/"+match[1]] = true
		}
	}
	return v
}

// forget does what status says is to be done about what Docker has forgotten, and
// returns how much that was.
func (s *site) forget() int {
	s.t.Helper()
	out, err := s.Drawbridge("status", "--docker-socket", "/run/docker.sock")
	if out == "" {
		s.t.Fatalf("status: %v", err)
	}
	done := 0
	for line := range strings.Lines(out) {
		if _, what, ok := strings.Cut(strings.TrimSpace(line), "drawbridge remove "); ok && strings.Contains(line, "Docker has no network") {
			if out, err := s.Drawbridge("remove", what, "--docker-socket", "/run/docker.sock"); err != nil {
				s.t.Fatalf("%s%v%s", line, err, out)
			}
			done++
		}
	}
	return done
}

// dice are for tests that choose. TEST_SEED has them fall as they did before.
func (s *site) dice() *rand.Rand {
	s.t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			s.t.Fatal(err)
		}
	}
	s.t.Logf("TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
