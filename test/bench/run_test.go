package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	for _, row := range []struct {
		name   string
		starts []float64
		want   float64
	}{
		{"of nothing", nil, 0},
		{"of one", []float64{7}, 7},
		{"of an odd number is the middle one, whatever their order", []float64{900, 1, 2}, 2},
		{"of an even number is between the middle two", []float64{4, 900, 1, 2}, 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			var all samples
			for _, x := range row.starts {
				all = append(all, Sample{Start: x})
			}
			if got := all.median(start); got != row.want {
				t.Errorf("want %v, got %v", row.want, got)
			}
		})
	}
}

// without is a run in which no network was measured.
func without() *Run {
	r := &Run{}
	r.add(none().name, "0", Sample{Start: 100, Removal: 30})
	r.add(none().name, "0", Sample{Start: 120, Removal: 50})
	return r
}

func TestTablesTell(t *testing.T) {
	r := without()
	ours, docker := drawbridge("nftables").name, bridge().name
	r.add(docker, "0", Sample{Start: 150, Removal: 80, Memory: Memory{MiB: 60, Processes: 3}, Connections: Connections{PerSecond: 12000, Cost: 80}})
	r.add(ours, "0", Sample{Start: 140, Removal: 39.6, Memory: Memory{MiB: 75, Ours: 20, Processes: 2}, Connections: Connections{PerSecond: 12500, Cost: 75}})
	r.add(docker, "10", Sample{Start: 1500, Removal: 4500})
	r.add(ours, "10", Sample{Start: 150, Removal: 45})
	r.add(ours, "many", Sample{Start: 300, Removal: 100, Memory: Memory{MiB: 90, Ours: 20, Processes: 2}, Connections: Connections{PerSecond: 12000, Cost: 80}})
	r.add(docker, "many", Sample{Start: 3000, Memory: Memory{MiB: 1350, Processes: 2003}, Connections: Connections{PerSecond: 6000, Cost: 160}, Overrun: "not ended in 60 s"})
	r.add(ours, "more", Sample{Start: 600, Removal: 200, Memory: Memory{MiB: 90, Ours: 20, Processes: 2}, Connections: Connections{PerSecond: 12000, Cost: 80}})
	r.add(docker, "more", Sample{Overrun: "not ended in 60 s"})

	for _, row := range []struct{ name, got, want string }{
		{"what a container costs without a network", r.Floor(), "start 110 ms (100 to 120), removal 40 ms (30 to 50)"},
		{"the whole, what of it is the network's, and how much more Docker takes", r.Times(), `| published ports | Docker's bridge | Drawbridge, nftables | Drawbridge, iptables | the first ÷ the second |
| --- | --- | --- | --- | --- |
| 0 | 150 (+40) / 80 (+40) | 140 (+30) / 40 (+0) | not tried | 1.1 / 2.0 |
| 10 | 1 500 (+1 390) / 4 500 (+4 460) | 150 (+40) / 45 (+5) | not tried | 10 / 100 |
| many | 3 000 (+2 890) / not ended in 60 s | 300 (+190) / 100 (+60) | not tried | 10 / – |
| more | not ended in 60 s | 600 (+490) / 200 (+160) | not tried |  |
`},
		{"memory, only where it was measured", r.Occupied(), `| published by others | Docker's bridge | Drawbridge, nftables | Drawbridge, iptables | the first ÷ the second |
| --- | --- | --- | --- | --- |
| 0 | 60 in 3 | 75 (20) in 2 | not tried | 0.8 |
| many | 1 350 in 2 003 | 90 (20) in 2 | not tried | 15 |
| more | not ended in 60 s | 90 (20) in 2 | not tried |  |
`},
		{"connections, likewise", r.Begun(), `| published by others | Docker's bridge | Drawbridge, nftables | Drawbridge, iptables | the first ÷ the second |
| --- | --- | --- | --- | --- |
| 0 | 12 000 / 80 | 12 500 / 75 | not tried | 1.0 / 1.1 |
| many | 6 000 / 160 | 12 000 / 80 | not tried | 0.5 / 2.0 |
| more | not ended in 60 s | 12 000 / 80 | not tried |  |
`},
	} {
		t.Run(row.name, func(t *testing.T) {
			if diff := cmp.Diff(row.want, row.got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsNotedIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run.json")
	want := without()
	want.Engine, want.Load = "20.10.24", []string{"0.5", "1.5"}
	if err := want.write(file); err != nil {
		t.Fatal(err)
	}
	got, err := readRun(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMemoryIsThatOfWhoeverServesNetworks(t *testing.T) {
	proc := t.TempDir()
	for i, p := range []struct {
		name string
		kib  int
	}{{"dockerd", 1024}, {"docker-proxy", 512}, {"docker-proxy", 512}, {"drawbridge", 2048}, {"peer", 4096}, {"containerd", 4096}} {
		dir := filepath.Join(proc, fmt.Sprint(i+1))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		rollup := fmt.Sprintf("00400000-7ffd5b1f2000 ---p 00000000 00:00 0    [rollup]\nRss:   9000 kB\nPss:   %d kB\nPss_Dirty:  10 kB\n", p.kib)
		for name, content := range map[string]string{"comm": p.name + "\n", "smaps_rollup": rollup} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	// One that ended while it was looked at.
	if err := os.Mkdir(filepath.Join(proc, "99"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := Memory{MiB: 4, Ours: 2, Processes: 4}
	if got, err := memory(proc); err != nil || got != want {
		t.Errorf("want %+v, got %+v, %v", want, got, err)
	}
}
