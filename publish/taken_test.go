package publish_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/publish"
	"github.com/drawbridge-net/drawbridge/spec"
)

func TestAKernelWithoutIPv6IsToldWithARemedy(t *testing.T) {
	err := publish.Explain(port(spec.TCP, "::1", 8080, 1), unix.EAFNOSUPPORT)
	const want = "this kernel has no IPv6 (is it booted with ipv6.disable=1?), publish on an address of IPv4: address family not supported by protocol"
	if !errors.Is(err, unix.EAFNOSUPPORT) || err.Error() != want {
		t.Errorf("(-want +got):\n- %s\n+ %v", want, err)
	}
}
