package queue

import "sync"

// abandoned keeps the parts whose entries the kernel still has when their queue is gone: it may
// write to their memory.
var abandoned parts

type parts struct {
	mu   sync.Mutex
	list []Part
}

func (p *parts) keep(part Part) {
	p.mu.Lock()
	p.list = append(p.list, part)
	p.mu.Unlock()
}
