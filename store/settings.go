package store

// Settings remembers in boot.db which of the host's settings were changed, and
// what they were before: a boot forgets both.
type Settings struct{ store *Store }

// Settings is the view for whoever changes settings of the host.
func (s *Store) Settings() Settings { return Settings{s} }

const settingBucket = "setting"

type setting struct {
	Name  string `json:"name"`  // e.g. net.ipv4.conf.eth0.forwarding
	Value int    `json:"value"` // as found
}

// Found returns the values that were found, by setting.
func (s Settings) Found() (map[string]int, error) {
	records, err := load[setting](s.store, s.store.boot, settingBucket)
	found := make(map[string]int, len(records))
	for _, r := range records {
		found[r.Name] = r.Value
	}
	return found, err
}

// Remember notes the value that a setting had.
func (s Settings) Remember(name string, value int) error {
	var e edits
	e.put(settingBucket, name, setting{name, value})
	return s.store.boot.write(e)
}

// Forget drops the note.
func (s Settings) Forget(name string) error {
	var e edits
	e.delete(settingBucket, name)
	return s.store.boot.write(e)
}
