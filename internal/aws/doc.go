// Package aws is the world of AWS: things, certificates, thing groups and jobs
// of AWS IoT Core, packages in S3, issuers that sign with a key in SSM or KMS
// or through ACM Private CA. The journal, and everything that AWS has no place
// for, is the store of internal/store.
//
// Read clients.go first: every call to AWS goes out through the clients made
// there, which wait for the quota of their API (quota.go). world.go joins the
// parts. Then inventory.go, which turns one noun of the domain into several
// calls, and settle.go, which ends what was cut off between the store and AWS.
// pace.go is how members of the rotation group get their job; bus.go how
// requests come in, envelope.go who made them, issuer.go and issuer_pca.go what
// signs.
package aws
