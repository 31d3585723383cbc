package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"

	"varve/integration/facts"
)

const factsFile = "facts.jsonl"

// notebook is where a machine writes what it knows, on the host.
type notebook struct {
	mu   sync.Mutex
	f    *os.File
	list []facts.Fact
}

// openNotebook reads what was noted, and cuts off a line that a kill has torn: what it was about
// never began.
func openNotebook(dir string) (*notebook, error) {
	name := filepath.Join(dir, factsFile)
	list, err := readFacts(name)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(name)
	if err == nil {
		whole := int64(bytes.LastIndexByte(b, '\n') + 1)
		if err = f.Truncate(whole); err == nil {
			_, err = f.Seek(whole, 0)
		}
	}
	return &notebook{f: f, list: list}, err
}

// readFacts reads the whole lines.
func readFacts(name string) ([]facts.Fact, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var list []facts.Fact
	for line := range bytes.Lines(b) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var f facts.Fact
		if err := json.Unmarshal(line, &f); err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// note returns when the fact is with the host, whatever becomes of this machine.
func (n *notebook) note(f facts.Fact) error {
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, f)
	if _, err := n.f.Write(append(b, '\n')); err != nil {
		return err
	}
	return n.f.Sync()
}
