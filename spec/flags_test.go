package spec

// setting is what an engine can be told that is no key of ours to read.
type setting struct {
	name string // as the docs write it
	parity
}

// engineSettings are what an engine does by itself for networks of every driver.
func engineSettings() []setting {
	const announce = "Seen with `--ipam-driver default`: a plugin's IPv4 addresses the engine announces as 0.0.0.0. TestEngineAnnouncesAddressesAsOftenAsTold"
	return []setting{
		{"`--config-from`, `--config-only`", same("A network takes options, subnets and flags from another, which is but a model.", "TestEngineNetworksTakeTheirConfigurationFromAnother")},
		{"`--aux-address DefaultGatewayIPv4=…`, `…IPv6=…`", same("Another gateway for containers than the bridge.", "TestEngineAnAuxiliaryAddressMayBeTheGateway")},
		{"`com.docker.network.endpoint.sysctls`", same("Sysctls of the interface in the container, e.g. `net.ipv4.conf.IFNAME.log_martians=1`.", "TestEngineSysctlsOfAnEndpointHold")},
		{"`com.docker.network.advertise_addr_nmsgs`", same("How often a new container is announced to its neighbours: 0 to 3 times, by default 3.", announce)},
		{"`com.docker.network.advertise_addr_ms`", same("How long from one announcement to the next: 100 to 2000 ms, by default 1000.", announce)},
	}
}

// engineFlags are the flags of dockerd that have to do with networks, of 20.10 and of
// the newest engine.
func engineFlags() []setting {
	const overlay = "overlay networks' alone"
	return []setting{
		{"`--iptables`, `--ip6tables`", no("The engine writes rules.", "Drawbridge writes its own, and needs none of the engine's: TestEngineThatLeavesTheHostAloneIsEnough")},
		{"`--firewall-backend`", no("With what it writes them.", "Drawbridge works beside either: TestEngineFlagsOfLaterEnginesHold")},
		{"`--ip-forward`", no("The engine turns `ip_forward` on.", "Drawbridge has its bridges and uplinks forward, and nothing else: TestEngineUplinksForwardForContainersOnly")},
		{"`--ip-forward-no-drop`", no("Then it leaves the policy of FORWARD as it was.", "Drawbridge sets none, and works behind either: TestEngineUnpublishedPortsAreClosed")},
		{"`--userland-proxy`, `--userland-proxy-path`", no("A process for each published port.", "Drawbridge has the kernel do it, and where the kernel cannot, its one daemon: TestEnginePublishedPortsAnswerFromEverywhere")},
		{"`--allow-direct-routing`", ours("Other machines reach published ports by the container's address.", "`com.docker.network.bridge.trusted_host_interfaces` says behind which interfaces; `com.docker.network.bridge.gateway_mode_ipv4=routed` opens nothing else: TestEngineTrustedInterfacesReachWhatIsPublished")},
		{"`--bridge-accept-fwmark`", no("Packets with this mark reach every port of every container.", "a hole that no `docker network inspect` shows; `com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected` opens one network")},
		{"`--default-network-opt`", same("Options of all new networks of a driver, e.g. `drawbridge=com.docker.network.driver.mtu=1420`.", "TestEngineFlagsOfLaterEnginesHold")},
		{"`--default-address-pool`", ours("Where subnets are chosen from.", "`drawbridge serve --pool`; with `--ipam-driver default` the engine's: TestEngineFlagsOfEveryNetworkHold")},
		{"`--dns`, `--dns-opt`, `--dns-search`", same("What containers ask for names.", "TestEngineFlagsOfEveryNetworkHold")},
		{"`--host-gateway-ip`", same("What `host-gateway` in `--add-host` means.", "TestEngineFlagsOfEveryNetworkHold")},
		{"`--live-restore`", same("Containers outlive the engine.", "TestEngineLiveRestoreKeepsConnectionsAndPorts")},
		{"`--userns-remap`", same("Root in containers is nobody outside.", "TestEngineWithUserNamespacesMovesOurInterfacesToo")},
		{"`--rootless`", no("The engine runs without root.", "it has a host of its own then, which Drawbridge would have to run in; refused at start: TestEngineWithUserNamespacesMovesOurInterfacesToo")},
		{"`--bridge`", ours("docker0: another bridge, or `none`.", "`com.docker.network.bridge.name`")},
		{"`--bip`, `--bip6`, `--fixed-cidr`, `--fixed-cidr-v6`, `--ipv6`", ours("docker0: subnets.", "`--subnet`, `--gateway`, `--ip-range`, `--ipv6` of a network")},
		{"`--default-gateway`, `--default-gateway-v6`", ours("docker0: the gateway of containers.", "`--aux-address DefaultGatewayIPv4=…`")},
		{"`--mtu`", ours("docker0: the MTU.", "`com.docker.network.driver.mtu`")},
		{"`--icc`", ours("docker0: containers reach each other.", "`com.docker.network.bridge.enable_icc`")},
		{"`--ip`", ours("docker0: on which address of the host ports are published.", "`com.docker.network.bridge.host_binding_ipv4`")},
		{"`--ip-masq`", ours("docker0: containers hide behind the host's address.", "`com.docker.network.bridge.enable_ip_masquerade`")},
		{"`--network-control-plane-mtu`, `--network-diagnostic-port`, `--swarm-default-advertise-addr`", no("How the nodes of a swarm talk.", overlay)},
		{"`--cluster-advertise`, `--cluster-store`, `--cluster-store-opt`", no("Where overlay networks were kept without a swarm, up to 20.10.", overlay)},
	}
}
