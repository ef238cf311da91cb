package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// keys are the cluster's certificates, all of one authority. They are files, as everybody who uses
// them wants files.
type keys struct {
	dir string
	ca  *x509.Certificate
	key *ecdsa.PrivateKey
}

// identities are the clients and servers, by the name of their files: who they are to the API server's
// authorization.
var identities = map[string]pkix.Name{
	"admin":        {CommonName: "admin", Organization: []string{"system:masters"}},
	"checkpointer": {CommonName: "checkpointer"},
	"nobody":       {CommonName: "nobody"},
	"apiserver":    {CommonName: "kube-apiserver", Organization: []string{"system:masters"}}, // to the kubelet too
	"kubelet":      {CommonName: "system:node:" + Node, Organization: []string{"system:nodes"}},
}

func newKeys(dir string) (*keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	k := &keys{dir: dir}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	k.key = key
	k.ca = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cri-restore test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if err := k.write("ca", k.ca, key); err != nil {
		return nil, err
	}
	serial := int64(1)
	for name, subject := range identities {
		serial++
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		err = k.write(name, &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: subject,
			NotBefore: k.ca.NotBefore, NotAfter: k.ca.NotAfter,
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
			DNSNames:    []string{Node}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}, key)
		if err != nil {
			return nil, err
		}
	}
	return k, nil
}

// write writes NAME.crt and NAME.key, signed by the authority.
func (k *keys) write(name string, cert *x509.Certificate, key *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, cert, k.ca, key.Public(), k.key)
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", name, err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("key of %s: %w", name, err)
	}
	if err := os.WriteFile(k.cert(name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		0o600); err != nil {
		return err
	}
	return os.WriteFile(k.private(name), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600)
}

func (k *keys) cert(name string) string    { return filepath.Join(k.dir, name+".crt") }
func (k *keys) private(name string) string { return filepath.Join(k.dir, name+".key") }
