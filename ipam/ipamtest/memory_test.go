package ipamtest_test

import (
	"testing"

	"github.com/drawbridge-net/drawbridge/ipam"
	"github.com/drawbridge-net/drawbridge/ipam/ipamtest"
)

func TestMemoryKeepsThePromisesOfAStore(t *testing.T) {
	store := new(ipamtest.Memory)
	ipamtest.TestStore(t, func() ipam.Store { return store })
}
