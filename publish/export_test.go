package publish

// HasSCTP lets tests ask as the layer does.
func HasSCTP() bool { return hasSCTP() }

// Freed lets tests ask as Watch does.
func (p *Ports) Freed() bool { return p.freed() }
