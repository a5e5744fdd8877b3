// Package aws is the world of AWS: things, certificates, thing groups and jobs
// of AWS IoT Core, packages in S3, issuers that sign with a key in SSM or KMS
// or through ACM Private CA. The journal, and everything that AWS has no place
// for, is the store of internal/store.
//
// Read clients.go first: every call to AWS goes out through the clients made
// there, which wait for the quota of their API. Then inventory.go, which turns
// one noun of the domain into several calls; bus.go, by which requests come in
// and replies go out, and envelope.go, which says who made them; issuer.go and
// issuer_pca.go, which sign.
package aws
