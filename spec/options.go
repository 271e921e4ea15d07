package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The keys under which an engine hands over what is no option of a person's
// (daemon/libnetwork/netlabel in github.com/moby/moby).
const (
	keyGeneric    = "com.docker.network.generic"
	keyEnableIPv4 = "com.docker.network.enable_ipv4"
	keyEnableIPv6 = "com.docker.network.enable_ipv6"
	keyInternal   = "com.docker.network.internal"
	keyPortMap    = "com.docker.network.portmap"
	keyExposed    = "com.docker.network.endpoint.exposedports"
	// keyOnlyIPv4 says, since 28.0, that another endpoint of the container is its
	// gateway for IPv6.
	keyOnlyIPv4 = "com.docker.network.driver.private.no_proxy_6to4"
)

// ourPrefix begins the keys of Drawbridge's own options. It has none yet, but
// whoever misspells a key of ours is told so.
const ourPrefix = "drawbridge."

// option is one row of the table of options: what a value may be, where it goes, and
// what docs/options.md says of it.
type option[T any] struct {
	key   string
	parse func(text string) (any, error)
	set   func(to *T, value any)
	parity
}

// networkOptions are the keys of a network that Docker's bridge driver or
// Drawbridge knows, as docker network create -o gives them.
func networkOptions() []option[Network] {
	return []option[Network]{
		{
			"com.docker.network.driver.mtu", parseMTU, func(n *Network, v any) { n.MTU = v.(int) },
			same("The largest packet in bytes, by default the kernel's 1500 or that of an adopted bridge.", "TestEngineOptionsOfANetworkHold"),
		},
		{
			"com.docker.network.container_iface_prefix", parsePrefix, func(n *Network, v any) { n.InterfacePrefix = v.(string) },
			same("How the names of interfaces in containers begin, by default `eth`.", "TestEngineOptionsOfANetworkHold"),
		},
		{
			"com.docker.network.bridge.name", parseBridgeName, func(n *Network, v any) { n.Bridge = v.(string) },
			same("Which bridge. One that exists is adopted: what it lacks is added, and taken away again at the end.", "TestEngineAnExistingBridgeIsAdoptedAndLeftAsFound. Docker removes addresses from one that exists, and leaves what it added. As there, whatever else is on it is closed to what other links route to it"),
		},
		{
			"com.docker.network.bridge.enable_icc", parseBool, func(n *Network, v any) { n.Apart = !v.(bool) },
			same("Whether its containers reach each other, by default true.", "TestEngineContainersMayBeKeptApart. In gateway mode `routed` Docker lets ping pass even so, Drawbridge nothing"),
		},
		{
			"com.docker.network.bridge.enable_ip_masquerade", parseBool, func(n *Network, v any) { n.Masquerade = v.(bool) },
			same("Whether containers hide behind the host's address, by default true.", "TestEngineContainersMayShowTheirOwnAddresses. Docker from 28.2 on drops the answers that then come to its own networks"),
		},
		{
			"com.docker.network.host_ipv4", parseIPv4, func(n *Network, v any) { n.Source4 = v.(netip.Addr) },
			same("Which address of the host they hide behind, by default that of the way out.", "TestEngineContainersGoOutByTheAddressOfChoice"),
		},
		{
			"com.docker.network.host_ipv6", parseIPv6, func(n *Network, v any) { n.Source6 = v.(netip.Addr) },
			same("The same for IPv6.", "TestEngineContainersGoOutByTheAddressOfChoice"),
		},
		{
			"com.docker.network.bridge.gateway_mode_ipv4", parseGatewayMode, func(n *Network, v any) { n.Mode4 = v.(GatewayMode) },
			same("How others reach containers, by default `nat`.", "TestEngineGatewayModesSayHowOthersReachContainers, TestEngineOneFamilyMayBeIsolated"),
		},
		{
			"com.docker.network.bridge.gateway_mode_ipv6", parseGatewayMode, func(n *Network, v any) { n.Mode6 = v.(GatewayMode) },
			same("The same for IPv6.", "TestEngineGatewayModesSayHowOthersReachContainers, TestEngineOneFamilyMayBeIsolated"),
		},
		{
			"com.docker.network.bridge.inhibit_ipv4", parseBool, func(n *Network, v any) { n.InhibitIPv4 = v.(bool) },
			same("The bridge is without IPv4, and the gateway's address another machine's; by default false.", "TestEngineTheGatewayMayBeAnotherMachine"),
		},
		{
			"com.docker.network.bridge.host_binding_ipv4", parseBinding, func(n *Network, v any) { n.HostBinding = v.(netip.Addr) },
			same("On which address `-p` publishes if it names none, by default on all; it may be one of IPv6.", "TestEngineNetworksSayWhereTheirPortsArePublished"),
		},
		{
			"com.docker.network.bridge.trusted_host_interfaces", parseInterfaces, func(n *Network, v any) { n.Trusted = v.([]string) },
			same("Behind these, published ports are reached by the container's address too.", "TestEngineTrustedInterfacesReachWhatIsPublished"),
		},
		{
			"com.docker.network.bridge.default_bridge", parseNotDefault, func(*Network, any) {},
			no("It is the engine's default network.", "docker0 is the engine's own, so only false is accepted"),
		},
		{
			keyEnableIPv4, parseBool, func(*Network, any) {},
			same("Whether it has IPv4, as `--ipv4` says, by default true.", "TestEngineFamiliesCanBeOptions"),
		},
		{
			keyEnableIPv6, parseBool, func(*Network, any) {},
			same("Whether it has IPv6, as `--ipv6` says, by default false.", "TestEngineFamiliesCanBeOptions"),
		},
	}
}

// endpointOptions are the keys of an endpoint: docker run --network
// name=web,driver-opt=KEY=VALUE. Docker's own endpoint.sysctls is not among them,
// since the engine applies it for every driver.
func endpointOptions() []option[Endpoint] {
	return []option[Endpoint]{
		{
			"com.docker.network.endpoint.ifname", parseInterfaceName, func(e *Endpoint, v any) { e.InterfaceName = v.(string) },
			same("The exact name of the interface in the container.", "TestEngineInterfacesHaveTheNamesAskedFor"),
		},
	}
}

// defaultPrefix begins the names of interfaces in containers, as in Docker's networks.
const defaultPrefix = "eth"

// Options is the map of options in a request of an engine.
type Options map[string]json.RawMessage

// Network fills in what the options of a CreateNetwork request say, and reports
// which families were asked for. An engine before 28.0 knows no switch for IPv4:
// there it is always on.
func (o Options) Network(to *Network) (ipv4, ipv6 bool, err error) {
	ipv4 = true
	to.Masquerade, to.InterfacePrefix = true, defaultPrefix
	err = errors.Join(
		o.bool(keyEnableIPv4, &ipv4),
		o.bool(keyEnableIPv6, &ipv6),
		o.bool(keyInternal, &to.Internal),
	)
	if err != nil {
		return ipv4, ipv6, err
	}
	generic := Options{}
	if raw, ok := o[keyGeneric]; ok {
		if err := json.Unmarshal(raw, &generic); err != nil {
			return ipv4, ipv6, fmt.Errorf("option %s=%s: %w: want an object", keyGeneric, excerpt(raw), ErrInvalid)
		}
	}
	if err := apply(networkOptions(), generic, to); err != nil {
		return ipv4, ipv6, err
	}
	return ipv4, ipv6, errors.Join(generic.agree(keyEnableIPv4, ipv4), generic.agree(keyEnableIPv6, ipv6))
}

// agree refuses a family switch among the options that the engine did not follow: by
// then it has asked for the pools.
func (o Options) agree(key string, engine bool) error {
	var text string
	if raw, ok := o[key]; !ok || json.Unmarshal(raw, &text) != nil {
		return nil
	}
	if wanted, err := strconv.ParseBool(text); err != nil || wanted == engine {
		return nil
	}
	return fmt.Errorf("option %s=%s: %w: this engine knows it as no option; use --ipv6 or --ipv4", key, text, ErrInvalid)
}

// Endpoint fills in what the options of a CreateEndpoint request say. Their keys
// are compared without regard to case, since Docker's CLI lowers them.
func (o Options) Endpoint(to *Endpoint) error {
	if err := o.checkExposed(); err != nil {
		return err
	}
	lowered := make(Options, len(o))
	for _, key := range slices.Sorted(maps.Keys(o)) {
		low := strings.ToLower(key)
		known := slices.ContainsFunc(endpointOptions(), func(e option[Endpoint]) bool { return e.key == low })
		if before, ok := lowered[low]; ok && known && !bytes.Equal(before, o[key]) {
			return fmt.Errorf("option %.80q: %w: it is given twice, as %s and %s", low, ErrInvalid, excerpt(before), excerpt(o[key]))
		}
		lowered[low] = o[key]
	}
	return apply(endpointOptions(), lowered, to)
}

func (o Options) bool(key string, to *bool) error {
	raw, ok := o[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return fmt.Errorf("option %s=%s: %w: want true or false", key, excerpt(raw), ErrInvalid)
	}
	return nil
}

// apply goes through the given options in the order of their keys, so that of
// several mistakes always the same one is named. Keys that nobody knows are left
// alone: they may be another tool's.
func apply[T any](table []option[T], given Options, to *T) error {
	for _, key := range slices.Sorted(maps.Keys(given)) {
		i := slices.IndexFunc(table, func(o option[T]) bool { return o.key == key })
		if i < 0 {
			if err := refuseUnknown(key, table); err != nil {
				return err
			}
			continue
		}
		if err := table[i].apply(given[key], to); err != nil {
			return err
		}
	}
	return nil
}

func (o option[T]) apply(raw json.RawMessage, to *T) error {
	var text *string
	if err := json.Unmarshal(raw, &text); err != nil || text == nil {
		return fmt.Errorf("option %s=%s: %w: want a string", o.key, excerpt(raw), ErrInvalid)
	}
	value, err := o.parse(*text)
	if err != nil {
		return fmt.Errorf("option %s=%.80q: %w: %w", o.key, *text, ErrInvalid, err)
	}
	o.set(to, value)
	return nil
}

func refuseUnknown[T any](key string, table []option[T]) error {
	if !strings.HasPrefix(strings.ToLower(key), ourPrefix) {
		return nil
	}
	nearest, least := "", 1<<30
	for _, o := range table {
		if d := distance(lastPart(key[:min(len(key), maxKey)]), lastPart(o.key)); d < least {
			nearest, least = o.key, d
		}
	}
	return fmt.Errorf("option %.80q: %w: Drawbridge has no such option; the nearest that it knows is %s", key, ErrInvalid, nearest)
}

// maxKey is how much of a key is compared; all that are known are shorter.
const maxKey = 80

func lastPart(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// distance is the number of single-letter edits between two words (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, replaced)
		}
	}
	return row[len(b)]
}

// excerpt is the beginning of a JSON value for an error's text.
func excerpt(raw json.RawMessage) string { return fmt.Sprintf("%.80s", raw) }
