package spec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/drawbridge-net/drawbridge/spec"
)

// options reads a JSON object.
func options(t *testing.T, text string) spec.Options {
	t.Helper()
	var o spec.Options
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestNetworkOptions(t *testing.T) {
	const bridge = "com.docker.network.bridge."
	for _, c := range []struct {
		promise string
		key     string // of the -o options, or "" where all is the whole object
		value   string
		want    func(*spec.Network)
		refused string
	}{
		{"no options give Docker's defaults", "", `{}`, nil, ""},
		{"no driver options at all do as well", "", `{"com.docker.network.generic":null}`, nil, ""},
		{"internal", "", `{"com.docker.network.internal":true}`, func(n *spec.Network) { n.Internal = true }, ""},
		{"explicitly not internal, as --config-from has it", "", `{"com.docker.network.internal":false}`, nil, ""},
		{"internal is no word", "", `{"com.docker.network.internal":"true"}`, nil, `com.docker.network.internal="true"`},
		{"internal is no number", "", `{"com.docker.network.internal":1}`, nil, "com.docker.network.internal=1"},
		{"driver options are an object", "", `{"com.docker.network.generic":"mtu=1"}`, nil, "com.docker.network.generic=\"mtu=1\": invalid: want an object"},
		{"an option of another tool is ignored", "org.example.colour", "blue", nil, ""},
		{"a label of Docker that no bridge knows is ignored", "com.docker.network.windowsshim.dnsservers", "1.1.1.1", nil, ""},
		{"MTU", "com.docker.network.driver.mtu", "1420", func(n *spec.Network) { n.MTU = 1420 }, ""},
		{"MTU 0 is the default", "com.docker.network.driver.mtu", "0", nil, ""},
		{"the least MTU", "com.docker.network.driver.mtu", "68", func(n *spec.Network) { n.MTU = 68 }, ""},
		{"an MTU below it", "com.docker.network.driver.mtu", "67", nil, `driver.mtu="67": invalid: want 68 to 65535`},
		{"an MTU above the greatest", "com.docker.network.driver.mtu", "65536", nil, "65535"},
		{"an empty MTU", "com.docker.network.driver.mtu", "", nil, `driver.mtu=""`},
		{"interface prefix", "com.docker.network.container_iface_prefix", "lan", func(n *spec.Network) { n.InterfacePrefix = "lan" }, ""},
		{"an interface prefix that leaves no room for a number", "com.docker.network.container_iface_prefix", "thirteenbytes", nil, "1 to 12"},
		{"an interface prefix that is a path", "com.docker.network.container_iface_prefix", "../x", nil, "interface name"},
		{"an empty interface prefix is the default", "com.docker.network.container_iface_prefix", "", nil, ""},
		{"no masquerade", bridge + "enable_ip_masquerade", "false", func(n *spec.Network) { n.Masquerade = false }, ""},
		{"masquerade is the default", bridge + "enable_ip_masquerade", "true", nil, ""},
		{"masquerade is a switch", bridge + "enable_ip_masquerade", "maybe", nil, `enable_ip_masquerade="maybe": invalid: want true or false`},
		{"icc is on", bridge + "enable_icc", "1", nil, ""},
		{"containers apart", bridge + "enable_icc", "false", func(n *spec.Network) { n.Apart = true }, ""},
		{"icc is a switch", bridge + "enable_icc", "sometimes", nil, "true or false"},
		{"the gateway mode nat", bridge + "gateway_mode_ipv4", "nat", nil, ""},
		{"an empty gateway mode is none", bridge + "gateway_mode_ipv6", "", nil, "want nat, nat-unprotected, routed or isolated"},
		{"the gateway mode routed", bridge + "gateway_mode_ipv6", "routed", func(n *spec.Network) { n.Mode6 = spec.Routed }, ""},
		{"the gateway mode nat-unprotected", bridge + "gateway_mode_ipv4", "nat-unprotected", func(n *spec.Network) { n.Mode4 = spec.Unprotected }, ""},
		{"a gateway mode that is none", bridge + "gateway_mode_ipv4", "teleport", nil, "want nat, nat-unprotected, routed or isolated"},
		{"a bridge's name", bridge + "name", "br-lan", func(n *spec.Network) { n.Bridge = "br-lan" }, ""},
		{"a bridge's name of 16 bytes", bridge + "name", "sixteencharacter", nil, "1 to 15"},
		{"no own bridge name", bridge + "name", "", nil, ""},
		{"a bridge's name that is every name with this beginning to iptables", bridge + "name", "br+", nil, "letters, digits and . _ - @"},
		{"the same to nft", bridge + "name", "br*", nil, "letters, digits and . _ - @"},
		{"a bridge's name that is an option to commands", bridge + "name", "-i", nil, "letters, digits and . _ - @"},
		{"a bridge's name that is all interfaces to sysctls", bridge + "name", "all", nil, "want another name than all"},
		{"a default address of the host", bridge + "host_binding_ipv4", "10.0.0.1", func(n *spec.Network) { n.HostBinding = netip.MustParseAddr("10.0.0.1") }, ""},
		{"a default address of IPv6", bridge + "host_binding_ipv4", "::1", func(n *spec.Network) { n.HostBinding = netip.MustParseAddr("::1") }, ""},
		{"the default address that is every one", bridge + "host_binding_ipv4", "0.0.0.0", nil, ""},
		{"a default address that is many", bridge + "host_binding_ipv4", "255.255.255.255", nil, "want an address of this host"},
		{"a default address that is none", bridge + "host_binding_ipv4", "eth0", nil, "want an address of this host"},
		{"a source address", "com.docker.network.host_ipv4", "10.0.0.1", func(n *spec.Network) { n.Source4 = netip.MustParseAddr("10.0.0.1") }, ""},
		{"a source address of the other family", "com.docker.network.host_ipv4", "fd00::1", nil, "want an IPv4 address"},
		{"a source address of IPv6", "com.docker.network.host_ipv6", "fd00::1", func(n *spec.Network) { n.Source6 = netip.MustParseAddr("fd00::1") }, ""},
		{"a source address that nobody answers", "com.docker.network.host_ipv4", "127.0.0.1", nil, "want an IPv4 address"},
		{"a source address that is many", "com.docker.network.host_ipv4", "255.255.255.255", nil, "want an IPv4 address"},
		{"a source address of one link", "com.docker.network.host_ipv6", "fe80::1", nil, "want an IPv6 address"},
		{"a source address of many of IPv6", "com.docker.network.host_ipv6", "ff02::1", nil, "want an IPv6 address"},
		{"a source address of IPv6 that is IPv4", "com.docker.network.host_ipv6", "::ffff:10.0.0.1", nil, "want an IPv6 address"},
		{"no address of IPv4", bridge + "inhibit_ipv4", "true", func(n *spec.Network) { n.InhibitIPv4 = true }, ""},
		{"the default bridge is the engine's", bridge + "default_bridge", "true", nil, "docker0 belongs to the engine"},
		{"not the default bridge", bridge + "default_bridge", "false", nil, ""},
		{"trusted interfaces", bridge + "trusted_host_interfaces", "vxlan.1:eth3", func(n *spec.Network) { n.Trusted = []string{"vxlan.1", "eth3"} }, ""},
		{"a trusted interface that is no name", bridge + "trusted_host_interfaces", "eth3:a/b", nil, "with colons between"},
		{"trusted interfaces that are every one with this beginning", bridge + "trusted_host_interfaces", "eth+", nil, "with colons between"},
		{"a family switch that the engine follows", "com.docker.network.enable_ipv4", "true", nil, ""},
		{"a family switch that the engine does not know", "com.docker.network.enable_ipv6", "true", nil, "use --ipv6"},
		{"an option of ours that there is not", "drawbridge.driver.mtv", "1400", nil, "the nearest that it knows is com.docker.network.driver.mtu"},
		{"an option of ours in capitals", "DrawBridge.enable_ICC", "1", nil, "com.docker.network.bridge.enable_icc"},
	} {
		t.Run(c.promise, func(t *testing.T) {
			text := c.value
			if c.key != "" {
				text = fmt.Sprintf(`{"com.docker.network.generic":{%q:%q}}`, c.key, c.value)
			}
			var got spec.Network
			ipv4, ipv6, err := options(t, text).Network(&got)
			if c.refused != "" {
				if !errors.Is(err, spec.ErrInvalid) || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("want a refusal with %q, got %v", c.refused, err)
				}
				return
			}
			want := spec.Network{Masquerade: true, InterfacePrefix: "eth"}
			if c.want != nil {
				c.want(&want)
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreUnexported(spec.Network{}), cmpopts.IgnoreFields(spec.Network{}, "Endpoints")); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if !ipv4 || ipv6 {
				t.Errorf("families: IPv4 %t, IPv6 %t", ipv4, ipv6)
			}
		})
	}
}

func TestFamilySwitches(t *testing.T) {
	for text, want := range map[string][2]bool{
		`{}`: {true, false}, // engines up to 27
		`{"com.docker.network.enable_ipv6":true}`:                                          {true, true},
		`{"com.docker.network.enable_ipv4":true,"com.docker.network.enable_ipv6":false}`:   {true, false},
		`{"com.docker.network.enable_ipv4":false,"com.docker.network.enable_ipv6":true}`:   {false, true},
		`{"com.docker.network.enable_ipv4":false,"com.docker.network.enable_ipv6":false}`:  {false, false},
		`{"com.docker.network.enable_ipv4":null,"com.docker.network.generic":{"other":7}}`: {true, false},
	} {
		ipv4, ipv6, err := options(t, text).Network(&spec.Network{})
		if err != nil || ipv4 != want[0] || ipv6 != want[1] {
			t.Errorf("%s: %t, %t, %v", text, ipv4, ipv6, err)
		}
	}
}

func TestOfSeveralMistakesAlwaysTheSameOneIsNamed(t *testing.T) {
	o := options(t, `{"com.docker.network.generic":{"drawbridge.a":"1","com.docker.network.driver.mtu":"x","com.docker.network.bridge.inhibit_ipv4":"y"}}`)
	_, _, first := o.Network(&spec.Network{})
	for range 50 {
		if _, _, err := o.Network(&spec.Network{}); err.Error() != first.Error() {
			t.Fatalf("first %v, then %v", first, err)
		}
	}
}

func TestEndpointOptions(t *testing.T) {
	for _, c := range []struct{ promise, text, name, refused string }{
		{"nothing asked", `{}`, "", ""},
		{"no options", `null`, "", ""},
		{"an interface name", `{"com.docker.network.endpoint.ifname":"web9"}`, "web9", ""},
		{"a key in other letters", `{"com.docker.Network.Endpoint.IfName":"web9"}`, "web9", ""},
		{"the same twice", `{"com.docker.network.endpoint.ifname":"a","com.docker.network.endpoint.IFNAME":"a"}`, "a", ""},
		{"two that differ", `{"com.docker.network.endpoint.ifname":"a","com.docker.network.endpoint.IFNAME":"b"}`, "", "given twice"},
		{"others' options that differ", `{"k":"a","K":"b"}`, "", ""},
		{"what the engine sends for itself", `{"com.docker.network.endpoint.macaddress":"AkKsEQBV","com.docker.network.portmap":[{"Proto":6}],"com.docker.network.endpoint.dnsservers":["1.1.1.1"],"com.docker.network.endpoint.exposedports":[{"Proto":6,"Port":80}]}`, "", ""},
		{"no exposed ports", `{"com.docker.network.endpoint.exposedports":null}`, "", ""},
		{"exposed ports that are a number", `{"com.docker.network.endpoint.exposedports":80}`, "", "exposedports=80: invalid: want a list of ports"},
		{"an interface name of 16 bytes", `{"com.docker.network.endpoint.ifname":"sixteencharacter"}`, "", "1 to 15"},
		{"an interface name of 15 bytes", `{"com.docker.network.endpoint.ifname":"fifteencharacte"}`, "fifteencharacte", ""},
		{"an interface name with a blank", `{"com.docker.network.endpoint.ifname":"a b"}`, "", "blanks"},
		{"an interface name that is a format", `{"com.docker.network.endpoint.ifname":"eth%d"}`, "", "%"},
		{"an interface name in two dots", `{"com.docker.network.endpoint.ifname":".."}`, "", "interface name"},
		{"an option of ours that there is not", `{"drawbridge.ifnam":"web9"}`, "", "the nearest that it knows is com.docker.network.endpoint.ifname"},
	} {
		t.Run(c.promise, func(t *testing.T) {
			var got spec.Endpoint
			err := options(t, c.text).Endpoint(&got)
			if c.refused != "" {
				if !errors.Is(err, spec.ErrInvalid) || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("want a refusal with %q, got %v", c.refused, err)
				}
				return
			}
			if err != nil || got.InterfaceName != c.name {
				t.Errorf("name %q, %v", got.InterfaceName, err)
			}
		})
	}
}

func FuzzOptions(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `{"com.docker.network.generic":{"com.docker.network.driver.mtu":"1400","drawbridge.x":"1"}}`,
		`{"com.docker.network.internal":true,"com.docker.network.enable_ipv6":"x"}`,
		`{"com.docker.network.endpoint.ifname":"a","com.docker.network.endpoint.IFNAME":"b"}`,
		`{"com.docker.network.generic":{"com.docker.network.container_iface_prefix":"\u0000"}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var o spec.Options
		if json.Unmarshal([]byte(text), &o) != nil {
			return
		}
		n, ep := spec.Network{}, spec.Endpoint{}
		_, _, err := o.Network(&n)
		for _, err := range []error{err, o.Endpoint(&ep)} {
			if err != nil && (!errors.Is(err, spec.ErrInvalid) || len(err.Error()) > 2048) {
				t.Errorf("error of %d bytes: %.200v", len(err.Error()), err)
			}
		}
		if err == nil && (n.MTU < 0 || n.MTU > 65535 || n.InterfacePrefix == "" || len(n.InterfacePrefix) > 12) {
			t.Errorf("network %+v", n)
		}
		if strings.ContainsAny(n.InterfacePrefix+ep.InterfaceName, "/ \x00\n:") || len(ep.InterfaceName) > 15 {
			t.Errorf("names %q, %q", n.InterfacePrefix, ep.InterfaceName)
		}
	})
}
