package objstore

import "sync"

// logPool has the log segments of volumes at rest, for whoever writes next. Sealed each time, a segment would make as many
// files as volumes are opened; kept by its volume, as many descriptors as there are volumes.
//
// A segment in it is no volume's: all that was handed out of it has settled and been given back, no list of segments to
// sync has it, and it holds objects, which stay where they are whoever appends to it. So one that is taken has unsettled
// writes of one volume at a time, as every log segment.
type logPool struct {
	mu   sync.Mutex
	segs []*segment
}

func (p *logPool) put(g *segment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.segs = append(p.segs, g)
}

// take gives a segment with room for a request, or nil. It never blocks on I/O.
func (p *logPool) take() *segment {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.segs)
	if n == 0 {
		return nil
	}
	g := p.segs[n-1]
	p.segs = p.segs[:n-1]
	return g
}
