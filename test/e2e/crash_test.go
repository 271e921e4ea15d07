package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab"
	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// An act is a command of Docker's and what there is after it.
type act struct {
	name      string
	args      func(s *site) []string
	network   bool // the network wider
	container bool // a container that publishes port 9000
	connected bool // it is on other too
}

// life is that of a network and of a container, which is on another one as well.
var life = []act{
	{name: "network create", args: (*site).createWider, network: true},
	{name: "run", args: (*site).runOne, network: true, container: true},
	{name: "network connect", args: (*site).connectOne, network: true, container: true, connected: true},
	{name: "network disconnect", args: (*site).disconnectOne, network: true, container: true},
	{name: "rm", args: (*site).removeOne, network: true},
	{name: "network rm", args: (*site).removeWider},
}

func (s *site) createWider() []string {
	return []string{
		"network", "create", "-d", "drawbridge", "--ipam-driver", "drawbridge",
		"--ipv6", "--subnet", "172.30.2.0/24", "--subnet", "fd00:30:2::/64", "wider",
	}
}

func (s *site) runOne() []string {
	return []string{"run", "-d", "--label", "one", "--hostname", "one", "--network", "web", "-p", "9000:80", "-p", "9000:80/udp", lab.Image}
}

func (s *site) connectOne() []string { return []string{"network", "connect", "wider", s.one()} }

func (s *site) disconnectOne() []string { return []string{"network", "disconnect", "wider", s.one()} }

func (s *site) removeOne() []string { return []string{"rm", "-f", s.one()} }

func (s *site) removeWider() []string { return []string{"network", "rm", "wider"} }

// one is the container that runs, "" if none does.
func (s *site) one() string {
	s.t.Helper()
	ids := strings.Fields(s.Docker("ps", "-q", "--filter", "label=one"))
	if len(ids) > 1 {
		s.t.Fatalf("%d containers have the same port", len(ids))
	}
	return strings.Join(ids, "")
}

// A crash ends somebody at a step of a command, and has the service manager start it
// again. It returns the name of that step, "" if it was not reached, and the command's error.
type crash func(m *matrix, step int, args []string) (at string, err error)

func daemonCrashes(m *matrix, step int, args []string) (at string, err error) {
	m.t.Helper()
	m.f.Order(fmt.Sprintf("kill %d .", step))
	c := m.begin(args)
	if at = m.reaches(step, c); at == "" {
		m.f.Withdraw()
		return "", c.err
	}
	<-m.DaemonDone()
	m.f.Withdraw()
	m.StartDaemon()
	<-c.ended
	return at, c.err
}

func engineCrashes(m *matrix, step int, args []string) (at string, err error) {
	m.t.Helper()
	m.f.Order(fmt.Sprintf("hold %d .", step))
	c := m.begin(args)
	if at = m.reaches(step, c); at == "" {
		m.f.Withdraw()
		return "", c.err
	}
	m.KillDocker()
	m.f.Withdraw()
	<-c.ended
	m.StartDocker()
	return at, c.err
}

// command is one of Docker's that runs beside the test.
type command struct {
	ended chan struct{}
	err   error // once it has ended
}

func (s *site) begin(args []string) *command {
	c := &command{ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		_, c.err = s.TryDocker(args...)
	}()
	return c
}

// reaches waits until the daemon is at a step, and returns its name. It is "" if a command has
// ended and nothing follows it any more: the links of what it removes go after its answer.
func (m *matrix) reaches(step int, c *command) (at string) {
	m.t.Helper()
	is := func() bool {
		if steps := m.f.Steps(); len(steps) >= step {
			at = steps[step-1]
		}
		return at != ""
	}
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for !is() {
		select {
		case <-c.ended:
			lab.Until(m.t, "nothing follows the command", func() error {
				if err := m.disagreement(m.forgotten); !is() {
					return err
				}
				return nil
			})
			return at
		case <-pause.C:
		}
	}
	return at
}

func TestEngineOurDaemonDiesAtAnyStep(t *testing.T) {
	atSteps(t, []string{"--live-restore"}, 10, daemonCrashes)
}

func TestEngineLiveRestoreDiesAtAnyStep(t *testing.T) {
	atSteps(t, []string{"--live-restore"}, 10, engineCrashes)
}

func TestEngineDiesAtAnyStep(t *testing.T) {
	atSteps(t, nil, 10, engineCrashes)
}

// atSteps goes through life again and again, with a crash at another step of each act
// each time: at each of them, or at one of so many where time is short.
func atSteps(t *testing.T, flags []string, among int, crash crash) {
	t.Helper()
	prepare := func(s *site) { s.Failpoints() }
	eachEngineWith(t, flags, prepare, func(s *site) {
		f := s.Failpoints()
		dice := s.dice()
		s.dual("web", "172.30.1.0/24", "fd00:30:1::/64")
		s.Run("bystander", "--network", "web", "-p", "8080:80", "--restart", "always")
		m := &matrix{site: s, f: f, crash: crash, outlives: flags != nil}
		steps := make([][]int, len(life))
		for i, a := range life {
			f.Order("note 0 .")
			m.does(a)
			steps[i] = sample(dice, len(f.Steps()), among)
			f.Withdraw()
			m.holds(a)
		}
		rounds := slices.MaxFunc(steps, func(a, b []int) int { return len(a) - len(b) })
		begun := time.Now()
		for round := range rounds {
			for i, a := range life {
				if round < len(steps[i]) {
					m.crashes(a, steps[i][round])
				} else {
					m.does(a)
				}
			}
		}
		s.t.Logf("%d crashes in %s; status named %d things that Docker had forgotten, and engines %d starts", m.crashed, time.Since(begun).Round(time.Second), m.advice, m.forgotten)
		m.ends()
	})
}

// sample draws one of so many steps, at least one.
func sample(dice *rand.Rand, steps, among int) []int {
	all := dice.Perm(steps)
	for i := range all {
		all[i]++
	}
	if soak() {
		return all
	}
	return all[:max(1, (steps+among/2)/among)]
}

// matrix is what is known while crashes go on.
type matrix struct {
	*site
	f        *lab.Failpoints
	crash    crash
	outlives bool // containers do the engine

	crashed, advice, forgotten int
}

// does has an act done, and what follows its last answer.
func (m *matrix) does(a act) {
	m.t.Helper()
	m.Docker(a.args(m.site)...)
	m.agreeBut("after "+a.name, m.forgotten)
}

// crashes lets a crash happen at a step of an act and shows that nothing is lost and
// nothing left over.
func (m *matrix) crashes(a act, step int) {
	m.t.Helper()
	args := a.args(m.site)
	stop, flow := func() {}, (*hello.Conn)(nil)
	if m.outlives {
		flow = m.Outside.Dial("tcp", "192.0.2.1:8080")
		stop = m.bystanderServes()
	}
	at, err := m.crash(m, step, args)
	where := fmt.Sprintf("after %s and a crash at step %d (%s), which ended in %v", a.name, step, at, err)
	if at != "" {
		m.crashed++
		m.forgotten++
	} else if err != nil {
		m.t.Fatal(where, "without being reached")
	}
	if a.name == "run" && m.one() != "" {
		m.serves(where)
	}
	m.finish(a)
	m.holds(a)
	stop()
	if flow != nil {
		if _, err := flow.Ask(hello.Patience); err != nil {
			m.t.Errorf("%s: a bystander's connection broke: %v", where, err)
		}
		flow.Close()
	}
	m.agreeBut(where, m.forgotten)
	if m.t.Failed() {
		m.t.FailNow()
	}
}

// bystanderServes asks a bystander over each family in turn, and says how long it was
// silent at most: an engine that starts writes the FORWARD chain anew, and what was lost
// of a handshake meanwhile is sent again after seconds.
func (s *site) bystanderServes() (stop func()) {
	addrs := []string{"192.0.2.1:8080", "[2001:db8:1::1]:8080"}
	n, longest := 0, time.Duration(0)
	end := lab.Steadily(s.t, "a bystander's published port", func() error {
		n++
		begun := time.Now()
		_, err := s.Outside.AskFor("tcp", addrs[n%2], 4*hello.Patience)
		longest = max(longest, time.Since(begun))
		return err
	})
	return func() {
		end()
		s.t.Logf("a bystander answered %d times, the slowest took %s", n, longest.Round(time.Millisecond))
	}
}

// finish does what is left of an act, as a person would who was told that it failed.
func (m *matrix) finish(a act) {
	m.t.Helper()
	if a.network && !m.exists("wider") {
		m.again(m.createWider())
	}
	if a.container && m.one() == "" {
		m.Docker(m.runOne()...)
	}
	running := m.one()
	for _, id := range strings.Fields(m.Docker("ps", "-aq", "--filter", "label=one")) {
		if id != running || !a.container {
			_, _ = m.TryDocker("rm", "-f", id) // an engine may be about to
		}
	}
	if a.container {
		m.connects(running, a.connected)
	}
	if !a.network && m.exists("wider") {
		m.Docker("network", "rm", "wider")
	}
	m.advice += m.forget()
}

// connects has a container on the network or not.
func (m *matrix) connects(container string, want bool) {
	m.t.Helper()
	for key := range m.members("wider") {
		if strings.HasPrefix(key, staleEndpoint) {
			m.unstale("wider", container) // and may be on the network afterwards, or not
		}
	}
	is := false
	for key := range m.members("wider") {
		is = is || strings.HasPrefix(key, container)
	}
	switch {
	case want && !is:
		m.Docker("network", "connect", "wider", container)
	case !want && is:
		m.Docker("network", "disconnect", "wider", container)
	}
}

// again creates a network whose creation failed. It may have to be forgotten first.
func (m *matrix) again(create []string) {
	m.t.Helper()
	_, err := m.TryDocker(create...)
	if err == nil {
		return
	}
	if !strings.Contains(err.Error(), "drawbridge status") && !strings.Contains(err.Error(), "drawbridge remove") {
		m.t.Fatalf("no word of what to do: %v", err)
	}
	m.advice += m.forget()
	m.Docker(create...)
}

func (s *site) exists(network string) bool {
	s.t.Helper()
	return strings.TrimSpace(s.Docker("network", "ls", "-q", "--filter", "name=^"+network+"$")) != ""
}

// holds shows that the container of an act serves, and the bystander.
func (m *matrix) holds(a act) {
	m.t.Helper()
	m.comesBack("the bystander after " + a.name)
	if a.container {
		m.serves("after " + a.name)
	}
}

func (m *matrix) serves(when string) {
	m.t.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		for _, host := range []string{"192.0.2.1", "2001:db8:1::1"} {
			lab.Until(m.t, "the container serves "+when, func() error {
				_, err := m.Outside.Ask(protocol, join(host, "9000"))
				return err
			})
		}
	}
}

// ends restarts the engine, which is when what it forgot is known to be forgotten.
func (m *matrix) ends() {
	m.t.Helper()
	restartDocker(m.site)
	m.comesBack("the bystander at last")
	m.agree("at last")
}
