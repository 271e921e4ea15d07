package link_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/drawbridge-net/drawbridge/link"
	"github.com/drawbridge-net/drawbridge/test/lab"
)

func TestKernelTheGatewayOfASandboxIsThatOfItsProcesses(t *testing.T) {
	inside := lab.NewHost(t)
	var sandbox string
	inside.Do(func() {
		file, err := os.Open(namespacePath())
		must(t, err)
		t.Cleanup(func() { file.Close() })
		sandbox = fmt.Sprintf("/proc/self/fd/%d", file.Fd())
		process := exec.Command("sleep", "60")
		must(t, process.Start())
		t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	})
	if !link.Bound(sandbox) {
		t.Error("the sandbox is not bound")
	}
	has := func(want string) {
		t.Helper()
		got, err := link.Gateway(sandbox)
		if must(t, err); got != (netip.Addr{}) && got.String() != want || got == (netip.Addr{}) && want != "" {
			t.Errorf("the gateway is %s, want %q", got, want)
		}
	}
	has("")
	inside.Run("sh", "-ec", `
		ip link add eth0 type veth peer eth1; ip link set eth1 up; ip link set eth0 up
		ip addr add 172.30.1.7/24 dev eth0; ip route add 10.0.0.0/8 via 172.30.1.9; ip route add 0.0.0.0/1 via 172.30.1.8`)
	has("")
	inside.Run("ip", "route", "add", "default", "via", "172.30.1.1")
	has("172.30.1.1")
	inside.Run("ip", "route", "replace", "default", "dev", "eth0")
	has("")
	inside.Run("ip", "route", "replace", "default", "via", "172.30.1.2")
	has("172.30.1.2")
	sandbox = filepath.Join(t.TempDir(), "gone")
	has("")
	must(t, os.WriteFile(sandbox, nil, 0o600))
	has("")
	for _, path := range []string{sandbox, filepath.Join(t.TempDir(), "gone")} {
		if link.Bound(path) {
			t.Errorf("%s is bound", path)
		}
	}
}
