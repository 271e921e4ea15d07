package driver

import (
	wireipam "github.com/docker/go-plugins-helpers/ipam"
	"github.com/docker/go-plugins-helpers/network"

	"github.com/drawbridge-net/drawbridge/spec"
)

// The wire types of go-plugins-helpers, with what engines have added since. Options
// stay text until spec reads them, so that each mistake is named by its key.

type manifest struct{ Implements []string }

type networkCapabilities struct {
	network.CapabilitiesResponse
	// GwAllocChecker asks for GwAllocCheck calls; engines before 28.0 ignore it.
	GwAllocChecker bool
}

type gatewayAllocationRequest struct{ Options spec.Options }

type gatewayAllocation struct{ SkipIPv4, SkipIPv6 bool }

type createNetworkRequest struct {
	network.CreateNetworkRequest
	Options spec.Options
}

type createEndpointRequest struct {
	network.CreateEndpointRequest
	Options spec.Options
}

type joinRequest struct {
	network.JoinRequest
	Options spec.Options
}

type joinResponse struct {
	network.JoinResponse
	InterfaceName interfaceName
}

type interfaceName struct {
	network.InterfaceName
	// DstName is the exact name; engines that do not know it use DstPrefix.
	DstName string `json:",omitempty"`
}

type publishRequest struct {
	network.ProgramExternalConnectivityRequest
	Options spec.Options
}

type ipamCapabilities struct {
	wireipam.CapabilitiesResponse
	RequiresRequestReplay bool
}
