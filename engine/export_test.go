package engine

// WaitingAhead is how many changes wait for the layers ahead of the links.
func (e *Engine) WaitingAhead() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.ahead.waiting)
}
