package app

import (
	"github.com/aws/aws-sdk-go-v2/service/acmpca/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/store"
)

// privateCA returns ACM Private CA as the issuer; what it was asked for is
// noted in the store.
func (a *App) privateCA(clients *aws.Clients, s *store.Store) (*aws.PCAIssuer, error) {
	c := a.config.AWS.Issuer.PCA
	config := aws.PCAConfig{Notes: s, CertInfo: c.CertInfo, MaxDays: c.MaxDays, Patience: c.Patience, Now: a.now}
	if a.config.AWS.Registration == string(aws.WithCA) {
		config.Registry = clients.IoT
	}
	for _, ca := range c.NamedCAs() {
		client, err := aws.PrivateCAIn(clients.Config, ca.Name, c.Role)
		if err != nil {
			return nil, err
		}
		config.CAs = append(config.CAs, aws.PCA{
			ARN: ca.Name, Alias: ca.Alias, Client: client, FromCSR: c.FromCSR, Algorithm: types.SigningAlgorithm(c.Algorithm),
		})
	}
	for _, ca := range c.NamedIoTCAs() {
		config.IoTCAs = append(config.IoTCAs, aws.IoTCA{ID: certificate.ID(ca.Name), Alias: ca.Alias})
	}
	return aws.NewPCAIssuer(config)
}
