package driver

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `[]`, `{}`, `{"NetworkID":"a","networkid":"b"}`, `{"EndpointID":7}`,
		`{"NetworkID":"a","Options":{"a":1,"A":2}}`, `{"NetworkID":"a"}{}`,
		`{"Interface":{"Address":"10.0.0.1/8","address":"x"}}`, `{"EndpointID":"` + "\xff" + `"}`,
		`{"Options":` + strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40) + `}`,
		`{"Networ` + "\u212a" + `ID":"a","NetworKID":"b"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var req createEndpointRequest
		about, err := decode(body, &req)
		if err != nil {
			if text := err.Error(); len(text) > 1024 {
				t.Errorf("an error of %d bytes", len(text))
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("taken for JSON: %q", body)
		}
		if len(about.network) > 70 || !utf8.ValidString(about.network) {
			t.Errorf("the log gets %q", about.network)
		}
		if len(req.NetworkID) <= 64 && about.network != req.NetworkID {
			t.Errorf("the log says network %q, the request %q", about.network, req.NetworkID)
		}
		if len(req.EndpointID) <= 64 && about.endpoint != req.EndpointID {
			t.Errorf("the log says endpoint %q, the request %q", about.endpoint, req.EndpointID)
		}
		// What was understood means the same when it is said again.
		again, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		var second createEndpointRequest
		if _, err := decode(again, &second); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if third, err := json.Marshal(second); err != nil || !reflect.DeepEqual(again, third) {
			t.Errorf("%s became %s: %v", again, third, err)
		}
	})
}
