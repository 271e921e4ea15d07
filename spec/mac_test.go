package spec_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/spec"
)

func TestSamePlaceHasTheSameMACForEver(t *testing.T) {
	both := &spec.Endpoint{ID: "e", IPv4: netip.MustParsePrefix("10.1.0.2/24"), IPv6: netip.MustParsePrefix("fd00:1::2/64")}
	one := &spec.Endpoint{ID: "e", IPv4: both.IPv4}
	mac := spec.EndpointMAC(web, both)
	if got := mac.String(); got != "b2:83:31:0c:f0:c9" {
		t.Errorf("%s: neighbours and reservations know another", got)
	}
	if spec.EndpointMAC(web, &spec.Endpoint{ID: "a"}) == spec.EndpointMAC(web, &spec.Endpoint{ID: "b"}) {
		t.Error("two endpoints without addresses have one MAC")
	}
	if mac[0]&1 != 0 || mac[0]&2 == 0 {
		t.Errorf("%s is no locally administered unicast address", mac)
	}
	for what, other := range map[string]spec.MAC{
		"another network": spec.EndpointMAC(db, both),
		"another address": spec.EndpointMAC(web, one),
	} {
		if other == mac {
			t.Errorf("%s has the same MAC", what)
		}
	}
	if spec.DeriveMAC("ab", "c") == spec.DeriveMAC("a", "bc") {
		t.Error("parts run into each other")
	}
}

func TestMACSurvivesItsText(t *testing.T) {
	for _, mac := range []spec.MAC{{}, {2, 0x42, 0xac, 0x11, 0, 2}} {
		text, err := json.Marshal(mac)
		if err != nil {
			t.Fatal(err)
		}
		var back spec.MAC
		if err := json.Unmarshal(text, &back); err != nil || back != mac {
			t.Errorf("%s became %s: %v", mac, back, err)
		}
	}
	var back spec.MAC
	if err := json.Unmarshal([]byte(`"01:00:00:00:00:00"`), &back); err == nil {
		t.Error("a multicast address was read")
	}
}

func TestParseID(t *testing.T) {
	for _, good := range []string{strings.Repeat("0a", 32), "b3s04gz065xlt6fvbo68en3na", "abcdefghijkl"} {
		if got, err := spec.ParseID(good); err != nil || string(got) != good || got.Short() != good[:12] {
			t.Errorf("%s: %s, %v", good, got, err)
		}
	}
	for _, bad := range []string{"", "abc", strings.Repeat("a", 65), "ABCDEFGHIJKL", "abcdefghijk/", "abcdefghijké", "abcdefghijk\n"} {
		if _, err := spec.ParseID(bad); err == nil {
			t.Errorf("%q was taken for an ID", bad)
		}
	}
}
