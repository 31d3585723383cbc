package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"varve/uring/queue"
)

// Certificates are the files, in PEM, that TLS works with. Empty ones are not used.
type Certificates struct {
	CA        string // authorities that the server's certificate may be of; the system's by default
	Cert, Key string // the client's
	Hostname  string // the name in the server's certificate; that of the address by default
}

// in returns the certificates in a directory, under the names of libnbd and qemu. What is not there is
// not used, but for the authorities.
func (c Certificates) in(dir string) Certificates {
	if dir == "" {
		return c
	}
	if c.CA == "" {
		c.CA = filepath.Join(dir, "ca-cert.pem")
	}
	if _, err := os.Stat(filepath.Join(dir, "client-cert.pem")); c.Cert == "" && !errors.Is(err, fs.ErrNotExist) {
		c.Cert, c.Key = filepath.Join(dir, "client-cert.pem"), filepath.Join(dir, "client-key.pem")
	}
	return c
}

// config reads the certificates.
func (c Certificates) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.Hostname}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: %s has no certificate", queue.ErrInvalid, c.CA)
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, fmt.Errorf("%w: a client's certificate and its key belong together", queue.ErrInvalid)
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("read certificate %s and key %s: %w", c.Cert, c.Key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
