package bench

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/test/golden"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

// rounds says how often all is to be measured, 0 if the benchmark was not asked for.
func rounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("DRAWBRIDGE_BENCH")
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("DRAWBRIDGE_BENCH=%s: want a number of rounds", text)
	}
	return n
}

// TestEnginePortsCostLittleBesideDockersBridge is a sample of the benchmark, and all of it with
// DRAWBRIDGE_BENCH=5 in the environment. Times of a busy machine are judged with
// leniency, and by each other only.
func TestEnginePortsCostLittleBesideDockersBridge(t *testing.T) {
	t.Setenv("DRAWBRIDGE_FIREWALL", "") // each in its turn
	rounds := rounds(t)
	if rounds == 0 {
		b := newBencher(t, lab.Oldest, 100*time.Millisecond)
		few := slices.DeleteFunc(loads(), func(l load) bool { return l.name != "0" && l.name != "10" })
		b.turn(none(), loads())
		b.turn(bridge(), few)
		b.turn(drawbridge("nftables"), few)
		b.holds()
		return
	}
	for _, version := range []string{lab.Oldest, lab.Newest} {
		t.Run(version, func(t *testing.T) {
			b := newBencher(t, version, 2*time.Second)
			b.measure(rounds)
			b.holds()
			if golden.Update() {
				if err := b.run.write(noted(version)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func newBencher(t *testing.T, version string, during time.Duration) *bencher {
	t.Helper()
	l := lab.New(t)
	l.OnDisk = true
	b := &bencher{Lab: l, Engine: l.Engine(version), t: t, during: during}
	b.run = &Run{Engine: strings.TrimSpace(b.Docker("version", "-f", "{{.Server.Version}}")), Machine: machine(t), Date: time.Now().UTC().Format(time.DateOnly)}
	b.container(none(), load{}) // the first one of an engine is slow
	return b
}

// measure takes turns, in another order each round. What takes Docker's bridge minutes
// is asked of it once, at the end, since it may not come to one.
func (b *bencher) measure(rounds int) {
	b.t.Helper()
	b.run.Load = append(b.run.Load, loadAverage(b.t))
	for i := range rounds {
		turns := []func(){
			func() { b.turn(none(), loads()) },
			func() { b.turn(bridge(), loads()) },
			func() { b.turn(drawbridge("nftables"), append(append(loads(), crowds()...), shifted())) },
			func() { b.turn(drawbridge("iptables"), append(append(loads(), crowds()...), shifted())) },
		}
		for j := range turns {
			turns[(i+j)%len(turns)]()
		}
	}
	b.run.Load = append(b.run.Load, loadAverage(b.t))
	b.turn(bridge(), crowds())
}

// holds prints what was measured and judges what must hold on any machine.
func (b *bencher) holds() {
	b.t.Helper()
	for _, text := range []string{b.run.Floor(), b.run.Times(), b.run.Occupied(), b.run.Begun()} {
		if strings.Trim(text, "\n") == "" {
			b.t.Error("the benchmark has nothing to say of something")
		}
		fmt.Fprintln(os.Stdout, text)
	}
	ours := drawbridge("nftables").name
	zero, ten := b.run.of(ours, "0"), b.run.of(ours, "10")
	for what, of := range map[string]func(Sample) float64{"start": start, "removal": removal} {
		const busy = 1000 // what a container may take on a machine that has much to do, ms
		if ten.median(of) > 4*max(zero.median(of), busy) {
			b.t.Errorf("%s of a container takes %.0f ms with ten ports, %.0f without", what, ten.median(of), zero.median(of))
		}
	}
}

// noted is where the figures of an engine are.
func noted(version string) string { return "testdata/" + version + ".json" }

// machine says what the figures are of.
func machine(t *testing.T) string {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	release, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	return fmt.Sprintf("%d processors, Linux %s", runtime.NumCPU(), release)
}

// loadAverage is how many processes ran in the last minute.
func loadAverage(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	average, _, _ := strings.Cut(string(text), " ")
	return average
}
