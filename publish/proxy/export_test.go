package proxy

// Unsaid is how many complaints were not logged.
func Unsaid(p *Proxy) (n int) {
	p.grumbler.mu.Lock()
	defer p.grumbler.mu.Unlock()
	for _, c := range p.grumbler.kinds {
		n += c.unsaid
	}
	return n
}
