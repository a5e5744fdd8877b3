package aws

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
)

// grant allows calls of one service on the same resources.
type grant struct {
	sid       string
	service   string   // as IAM spells it
	calls     []string // as the SDK spells them
	on        []string
	condition Condition
}

// otherNames are the actions of calls that IAM has by another name. Of a list's
// second version AWS's reference says its own, and the API's documentation the
// first one's.
var otherNames = map[string][]string{
	"iot:ListThingPrincipalsV2": {"ListThingPrincipals", "ListThingPrincipalsV2"},
	"s3:HeadObject":             {"GetObject"},
	"lambda:Invoke":             {"InvokeFunction"},
}

// actions returns the names of the calls in IAM.
func (g grant) actions() []string {
	var all []string
	seen := map[string]bool{}
	for _, call := range g.calls {
		names, other := otherNames[g.service+":"+call]
		if !other {
			names = []string{call}
		}
		for _, name := range names {
			if action := g.service + ":" + name; !seen[action] {
				seen[action] = true
				all = append(all, action)
			}
		}
	}
	return all
}

// grants returns everything that the daemon calls, but for the broker. A call
// that is not here is one that the daemon makes in vain.
func (s Scope) grants() []grant {
	var all []grant
	for _, g := range slices.Concat(s.certificates(), s.things(), s.rotationJob(), s.presence(), s.journal(), s.issuer(), s.packages()) {
		if len(g.calls) > 0 {
			all = append(all, g)
		}
	}
	return all
}

// changes returns calls that change something, which one who observes never
// makes.
func (s Scope) changes(calls ...string) []string {
	if s.Observes {
		return nil
	}
	return calls
}

// here confines what has no resource that could be named to the region.
func (s Scope) here() Condition {
	return Condition{"StringEquals": {"aws:RequestedRegion": s.Region}}
}

func (s Scope) certificates() []grant {
	n := s.names()
	register := "RegisterCertificate"
	if s.Registration == WithoutCA {
		register = "RegisterCertificateWithoutCA"
	}
	certificates, things := n.iot("cert/*"), n.iot("thing/*")
	return []grant{
		{"CertificatesRead", "iot", []string{"DescribeCertificate"}, []string{certificates}, nil},
		{"Certificates", "iot", s.changes("UpdateCertificate", "DeleteCertificate", "AttachPolicy", "DetachPolicy"), []string{certificates}, nil},
		// AWS's reference names the certificate alone; the thing is there in
		// case that is not all it looks at.
		{"Attach", "iot", s.changes("AttachThingPrincipal", "DetachThingPrincipal"), []string{certificates, things}, nil},
		{"Policies", "iot", []string{"ListAttachedPolicies"}, []string{"*"}, s.here()},
		{"Register", "iot", s.changes(register), []string{"*"}, s.here()},
		{"Principals", "iot", []string{"ListThingPrincipalsV2"}, []string{things}, nil},
		{"Holders", "iot", []string{"ListPrincipalThings"}, []string{certificates}, nil},
		// What `inventory sync` reads, and nothing else does.
		{"Inventory", "iot", []string{"ListCertificates", "ListThings", "ListAuditFindings"}, []string{"*"}, s.here()},
		{"Index", "iot", []string{"SearchIndex"}, []string{n.iot("index/AWS_Things")}, nil},
	}
}

// things returns what is asked of who decides which devices there are, and of
// who approves their requests.
func (s Scope) things() []grant {
	all := s.registry()
	if s.Approver != "" {
		all = append(all, grant{"Approval", "lambda", []string{"Invoke"}, []string{s.function(s.Approver)}, nil})
	}
	return all
}

func (s Scope) registry() []grant {
	n := s.names()
	switch {
	case s.Registry == NoSource:
		return nil
	case s.Registry == AssetsSource && s.Assets.Function != "":
		return []grant{{"AssetLibrary", "lambda", []string{"Invoke"}, []string{s.function(s.Assets.Function)}, nil}}
	case s.Registry == AssetsSource:
		return []grant{{"AssetLibrary", "execute-api", []string{"Invoke"}, []string{s.api()}, nil}}
	}
	return []grant{
		{"Devices", "iot", append([]string{"DescribeThing"}, s.changes("UpdateThing", "CreateThing")...), []string{n.iot("thing/*")}, nil},
	}
}

// function returns a function's ARN, by its name or its ARN.
func (s Scope) function(name string) string {
	if arn.IsARN(name) {
		return name
	}
	return s.names().of("lambda", "function:"+name)
}

// api returns the ARN of the Asset Library's API: whichever API of the account
// it is, where its URL is one of the account's own names.
func (s Scope) api() string {
	id := anyLevel
	if u, err := url.Parse(s.Assets.URL); err == nil {
		if name, _, isAWS := strings.Cut(u.Hostname(), ".execute-api."); isAWS {
			id = name
		}
	}
	return s.names().of("execute-api", id+"/*/*/devices/*")
}

func (s Scope) rotationJob() []grant {
	n := s.names()
	group, things := n.group(s.Group), n.iot("thing/*")
	job := n.iot("job/" + jobPrefix(s.Group, s.Topics) + "*")
	executions := []string{"DescribeJobExecution"}
	groups := []string{"DescribeThingGroup", "CreateThingGroup", "TagResource", "ListThingsInThingGroup"}
	switch s.Rerun {
	case DeleteExecution:
		executions = append(executions, "DeleteJobExecution")
	case JobPerCampaign:
		group += "*" // each campaign's name has something behind it
		groups = append(groups, "DeleteThingGroup")
	}
	return []grant{
		{"Groups", "iot", []string{"ListThingGroupsForThing"}, []string{things}, nil},
		{"Group", "iot", s.changes(groups...), []string{group}, nil},
		{"Members", "iot", s.changes("AddThingToThingGroup", "RemoveThingFromThingGroup"), []string{group, things}, nil},
		{"Job", "iot", s.changes("DescribeJob", "CreateJob", "TagResource", "CancelJob", "ListJobExecutionsForJob"), []string{job, group}, nil},
		{"Executions", "iot", s.changes(executions...), []string{job, things}, nil},
	}
}

// presence is what is read of who has connected.
func (s Scope) presence() []grant {
	if s.Table == "" {
		return nil
	}
	return []grant{{"Presence", "dynamodb", []string{"Query", "GetItem"}, []string{s.names().table(s.Table)}, nil}}
}

// journal is what is done with the table of a store that is shared: also by who
// observes, since his store is shared no less.
func (s Scope) journal() []grant {
	if s.Journal == "" {
		return nil
	}
	calls := []string{"DescribeTable", "CreateTable", "GetItem", "PutItem", "UpdateItem", "Query", "BatchWriteItem"}
	return []grant{{"Journal", "dynamodb", calls, []string{s.names().table(s.Journal)}, nil}}
}

func (s Scope) issuer() []grant {
	n := s.names()
	ca := grant{"CA", "iot", []string{"DescribeCACertificate"}, []string{n.iot("cacert/" + string(s.Issuer.CA))}, nil}
	switch s.Issuer.Kind {
	case iotIssuer:
		return []grant{{"Sign", "iot", s.changes("CreateCertificateFromCsr"), []string{"*"}, s.here()}}
	case pcaIssuer:
		return s.privateCA()
	case kmsIssuer:
		key, condition := n.key(s.Issuer.Key)
		return []grant{ca, {"Sign", "kms", append([]string{"GetPublicKey"}, s.changes("Sign")...), []string{key}, condition}}
	}
	parameter := n.of("ssm", "parameter/"+KeyParameter(s.Issuer.CA))
	return []grant{
		ca,
		{"CAKey", "ssm", []string{"GetParameter"}, []string{parameter}, nil},
		// Whichever key of the account encrypts it.
		{"CAKeyDecrypt", "kms", []string{"Decrypt"}, []string{n.of("kms", "key/*")}, Condition{
			"StringLike":   {"kms:ViaService": "ssm." + s.Region + ".amazonaws.com*"},
			"StringEquals": {"kms:EncryptionContext:PARAMETER_ARN": parameter},
		}},
	}
}

// privateCA returns what is asked of ACM PCA: nothing of this identity's own
// where a role is assumed for it.
func (s Scope) privateCA() []grant {
	if s.Issuer.Role != "" {
		return []grant{{"PrivateCARole", "sts", []string{"AssumeRole"}, []string{s.Issuer.Role}, nil}}
	}
	return []grant{
		{"PrivateCA", "acm-pca", append([]string{"DescribeCertificateAuthority", "GetCertificateAuthorityCertificate"}, s.changes("GetCertificate")...), s.Issuer.CAs, nil},
		{"Sign", "acm-pca", s.changes("IssueCertificate"), s.Issuer.CAs, Condition{
			"StringLike": {"acm-pca:TemplateArn": pcaTemplate(s.names().partition, s.Issuer.FromCSR)},
		}},
	}
}

func (s Scope) packages() []grant {
	if s.Packages.Bucket == "" {
		return nil
	}
	n := s.names()
	objects := n.bucket(s.Packages.Bucket + "/" + s.Packages.Prefix + "*" + s.Packages.Suffix)
	all := []grant{
		{"Packages", "s3", append([]string{"HeadObject", "GetObject"}, s.changes("PutObject", "DeleteObject")...), []string{objects}, nil},
		// Without it S3 says of an object that is not there that it may not be
		// read.
		{"PackagesMissing", "s3", []string{"ListBucket"}, []string{n.bucket(s.Packages.Bucket)}, nil},
	}
	if s.Packages.KMSKey == "" || s.Packages.PlainBucket {
		return all
	}
	key, condition := n.key(s.Packages.KMSKey)
	via := Condition{"StringLike": {"kms:ViaService": "s3." + s.Region + ".amazonaws.com*"}}
	maps.Copy(via, condition)
	return append(all, grant{"PackagesKey", "kms", []string{"GenerateDataKey", "Decrypt"}, []string{key}, via})
}
