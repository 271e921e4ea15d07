package reach

import (
	"fmt"

	"github.com/drawbridge-net/drawbridge/spec"
)

// Create are the words of docker network create by which a network of ours, or one of
// Docker's own, becomes of a kind.
func Create(n spec.Network) []string {
	const bridge = "com.docker.network.bridge."
	var words []string
	if n.Internal {
		words = append(words, "--internal")
	}
	if n.Apart {
		words = append(words, "-o", bridge+"enable_icc=false")
	}
	if !n.Masquerade {
		words = append(words, "-o", bridge+"enable_ip_masquerade=false")
	}
	if n.Mode4 != spec.NAT {
		words = append(words, "-o", bridge+"gateway_mode_ipv4="+n.Mode4.String())
	}
	if n.Mode6 != spec.NAT {
		words = append(words, "-o", bridge+"gateway_mode_ipv6="+n.Mode6.String())
	}
	return words
}

// Run are the words of docker run by which a container becomes one of the machines.
func Run(name string) []string {
	m, h := machine(name), machine(Host)
	words := []string{"--ip", m.IPv4.String(), "--ip6", m.IPv6.String()}
	publish := func(at string, port int) {
		words = append(words, "-p", fmt.Sprintf("%s%d:%d", at, port, Published))
	}
	switch name {
	case A:
		publish("", Everywhere)
		publish(h.IPv4.String()+":", OneAddress)
		publish("["+h.IPv6.String()+"]:", OneAddress)
		publish("127.0.0.1:", Loopback)
	case O:
		publish("", ByOther)
	case D:
		publish("", ByEngine)
	}
	return words
}
