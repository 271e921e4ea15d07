package spec

// Indexed counts what the indexes of a State hold.
func (s *State) Indexed() (keys, ports, addresses int) {
	for _, n := range s.Networks.All() {
		addresses += n.addresses.Len()
	}
	return s.keys.Len(), s.ports.Len(), addresses
}
