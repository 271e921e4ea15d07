package publish_test

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/plan"
	"github.com/drawbridge-net/drawbridge/spec"
)

// BenchmarkKernelPublishTenThousandPorts holds and lets go of as many ports of UDP, which
// serve near clients as most ports do, or nobody. It tells what a port costs in memory of
// the process and of the kernel.
func BenchmarkKernelPublishTenThousandPorts(b *testing.B) {
	const count = 10_000
	for name, proxy6 := range map[string]plan.Proxy{"served": {To: inner6}, "silent": {}} {
		b.Run(name, func(b *testing.B) {
			bench := newBench(b)
			want := planOf(&plan.Endpoint{ID: one, Ports: []plan.Held{{
				Port: spec.Port{Proto: spec.UDP, HostPort: 20_000, ContainerPort: 20_000, Count: count}, Proxy6: proxy6,
			}}}, &plan.Zone{})
			for range b.N {
				b.StopTimer()
				process, kernel := resident(b), kernels(b)
				b.StartTimer()
				bench.mustApply(nil, want)
				b.StopTimer()
				b.ReportMetric((resident(b)-process)/count, "RSS-B/port")
				b.ReportMetric((kernels(b)-kernel)/count, "kernel-B/port")
				b.StartTimer()
				bench.mustApply(want, nobody)
			}
		})
	}
}

// resident is what the process has in memory, in bytes.
func resident(b *testing.B) float64 {
	b.Helper()
	debug.FreeOSMemory()
	return memory(b, "/proc/self/status", "VmRSS")
}

// kernels is what the kernel has for itself, in bytes.
func kernels(b *testing.B) float64 {
	b.Helper()
	return memory(b, "/proc/meminfo", "Slab") + memory(b, "/proc/meminfo", "VmallocUsed") + memory(b, "/proc/meminfo", "Percpu")
}

func memory(b *testing.B, path, name string) float64 {
	b.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == name+":" {
			kilobytes, err := strconv.ParseFloat(words[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kilobytes * 1024
		}
	}
	b.Fatalf("%s has no %s", path, name)
	return 0
}
