package store

// Zones remembers in boot.db which bridges we bound to a zone of firewalld's, since
// nothing there can be marked as ours: a boot forgets both.
type Zones struct{ store *Store }

// Zones is the view for whoever binds bridges.
func (s *Store) Zones() Zones { return Zones{s} }

const bindingBucket = "binding"

type binding struct {
	Bridge string `json:"bridge"` // e.g. dbr3f2a9c0d11ee
	Zone   string `json:"zone"`   // e.g. trusted
}

// Bound returns the zones, by bridge.
func (z Zones) Bound() (map[string]string, error) {
	records, err := load[binding](z.store, z.store.boot, bindingBucket)
	bound := make(map[string]string, len(records))
	for _, r := range records {
		bound[r.Bridge] = r.Zone
	}
	return bound, err
}

// Remember notes that we bind a bridge to a zone.
func (z Zones) Remember(bridge, zone string) error {
	var e edits
	e.put(bindingBucket, bridge, binding{bridge, zone})
	return z.store.boot.write(e)
}

// Forget drops the note.
func (z Zones) Forget(bridge string) error {
	var e edits
	e.delete(bindingBucket, bridge)
	return z.store.boot.write(e)
}
