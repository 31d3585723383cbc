package nbd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"varve/blockdev/target/nbd/nbdtest"
	"varve/blockdev/target/targettest"
	"varve/uring/queue"
	"varve/uring/queue/queuetest"
)

// certificate makes a certificate of its own for 127.0.0.1, and the file that has it.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca-cert.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, path
}

func TestTLS(t *testing.T) {
	cert, ca := certificate(t)
	s := nbdtest.Start(t, nbdtest.Options{Structured: true, Mixed: true, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	uri := "nbds://" + s.Addr + "/?tls-certificates=" + filepath.Dir(ca)
	d := open(t, uri, Options{Connections: 2})
	dev := queuetest.Start(t, queuetest.Options{NewPart: d.NewPart})
	targettest.Model(t, dev, targettest.ModelOptions{Limits: d.Limits()})
	s.Kill()
	if err := dev.Do(&queuetest.IO{Op: queue.OpWrite, Data: make([]byte, 4096)}); err != nil {
		t.Errorf("a write after the connections were lost: %v", err)
	}
	for uri, want := range map[string]string{
		"nbd://" + s.Addr:  "wants TLS",
		"nbds://" + s.Addr: "unknown authority",
		"nbds://" + s.Addr + "/?tls-hostname=other&tls-certificates=" + filepath.Dir(ca): "wanted to match other",
	} {
		if _, err := Open(t.Context(), uri, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", uri, err, want)
		}
	}
}
