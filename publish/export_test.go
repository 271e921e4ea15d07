package publish

// HasSCTP lets tests ask as the layer does.
func HasSCTP() bool { return hasSCTP() }
