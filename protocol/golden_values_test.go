package protocol_test

import (
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/certvendor/certvendor/protocol"
)

// The things that the examples are about. They belong together: the
// certificate is for the key of the request, the proof is by that key.
const (
	device     = "thing001"
	previousID = "6da0633528deaa0144e7b058315f0b753ec0b945163a72bf96a0d18180f9de0d"
	packageID  = "bc4a71180870f7945155fbb02f4b0a2e3faa2a62d6d31b7039013055ed19869a"
	jobID      = "certvendor-72f90047351b5be6"
	queuedAt   = 1795262400

	packageLink = "https://localhost:8443/packages/b1b1bdb480c61d075300d9bff7d9cb69cf31695ea048e478facadf426e8d0fb0?expires=1795262700&signature=Zm9yIHRoZSBkb2N1bWVudGF0aW9uLCBvcGVucyBub2E"

	certificateID = "4622464e99bd27027044278944b4ec76208da0515f0d7778a47409556645aad9"
	notAfter      = "2029-11-20T12:00:00Z"
	nonce         = "mz5vq6-KyZqdNb1130k5rDOnNReLxrv1_BGuhWJTg24"
	proof         = "MEUCIQCPgLQmb1Sfz1X4qi5AIvL3oufCRHwvxU/+AbMsRSfElgIgVttVw4C8/eezk52pbxCLrPBq1xFYB6In0WLHTRHnZAI="

	document = `{"operation":"RotateCertificates","get":{"subscribe":"cdf/certificates/{thingName}/get/+","publish":"cdf/certificates/{thingName}/get"},"ack":{"subscribe":"cdf/certificates/{thingName}/ack/+","publish":"cdf/certificates/{thingName}/ack"}}`

	csrPEM = `-----BEGIN CERTIFICATE REQUEST-----
MIHNMHUCAQAwEzERMA8GA1UEAxMIdGhpbmcwMDEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAT1EO3V6EoCb7EbuoUs9r6CWC11VHn3yNBjMrX0RL9kTtnsMxsPo3Uc
dJ0NA+/x4UmmKRoH7DaRgQJ9Di+yK2qioAAwCgYIKoZIzj0EAwIDSAAwRQIgfpzn
WNdNI1S5dCHVdsioeT8jPgWDo+Bv8asp5GOTxzsCIQDLg6E47Tvjn5bho+vyTE7+
GSLRk+ccuMvDNWS2gW9MSw==
-----END CERTIFICATE REQUEST-----
`
	certificatePEM = `-----BEGIN CERTIFICATE-----
MIIB4DCCAYagAwIBAgIUZvCFsfZ3Zw37jihJoCsrPr5jp40wCgYIKoZIzj0EAwIw
KTEnMCUGA1UEAxMeY2VydHZlbmRvciBpc3N1aW5nIENBIDVmMWMwOWFhMB4XDTI2
MTEyMTExNTUwMFoXDTI5MTEyMDEyMDAwMFowEzERMA8GA1UEAxMIdGhpbmcwMDEw
WTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAT1EO3V6EoCb7EbuoUs9r6CWC11VHn3
yNBjMrX0RL9kTtnsMxsPo3UcdJ0NA+/x4UmmKRoH7DaRgQJ9Di+yK2qio4GhMIGe
MA4GA1UdDwEB/wQEAwIHgDATBgNVHSUEDDAKBggrBgEFBQcDAjAMBgNVHRMBAf8E
AjAAMB0GA1UdDgQWBBRHu/ZbZqeNWO1dIsbZbnhqupDAvTAfBgNVHSMEGDAWgBQj
M9RHY4Zpm0/GZAzjVexna9NS8DApBgNVHREEIjAghh51cm46Y2VydHZlbmRvcjpk
ZXZpY2U6dGhpbmcwMDEwCgYIKoZIzj0EAwIDSAAwRQIhAKikcJO98sTV5O9ECQGh
/6BZA4+g3OZcfigcb7/Yr7KWAiATjtFzzHXWmaO4vPPSRp7rAwzwrLZuHl4hYH4a
28Bs4w==
-----END CERTIFICATE-----
`
	chainPEM = `-----BEGIN CERTIFICATE-----
MIIBpDCCAUugAwIBAgIFXSHboAAwCgYIKoZIzj0EAwIwJjEkMCIGA1UEAxMbY2Vy
dHZlbmRvciByb290IENBIDVmMWMwOWFhMB4XDTI2MTEyMDEyMDAwMFoXDTQ2MTEy
MTEyMDAwMFowKTEnMCUGA1UEAxMeY2VydHZlbmRvciBpc3N1aW5nIENBIDVmMWMw
OWFhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAERwyx9gQB7kQ9ypseCnUc8OAS
MLovdonLpZ5dX5PezJ/jqAtHrgtR8eawaATmQPeaGV2gOwR9yC+tDLblkhBF+6Nj
MGEwDgYDVR0PAQH/BAQDAgEGMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFCMz
1EdjhmmbT8ZkDONV7Gdr01LwMB8GA1UdIwQYMBaAFKJ1NWkYD6SPSsFyPJ7ELx2G
1zYBMAoGCCqGSM49BAMCA0cAMEQCIBqgW/ACMl4TDM9SHd7WLFblpxlIqDK9vpjm
1NGzSGD0AiAlLmmjZ8gBQQDWhm53BytWKJnB1q3WmorUIq70mi45SA==
-----END CERTIFICATE-----
-----BEGIN CERTIFICATE-----
MIIBgjCCASegAwIBAgIFXSHboAAwCgYIKoZIzj0EAwIwJjEkMCIGA1UEAxMbY2Vy
dHZlbmRvciByb290IENBIDVmMWMwOWFhMB4XDTI2MTEyMDEyMDAwMFoXDTQ2MTEy
MTEyMDAwMFowJjEkMCIGA1UEAxMbY2VydHZlbmRvciByb290IENBIDVmMWMwOWFh
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEfms35X5ue8k5KEBHh66x95cZPQcZ
O30hMOlKWz4YCXFBvZd4hXU3jjkcDlgawL/vFBhwr5eA2xTKUjjTs0O/qKNCMEAw
DgYDVR0PAQH/BAQDAgEGMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFKJ1NWkY
D6SPSsFyPJ7ELx2G1zYBMAoGCCqGSM49BAMCA0kAMEYCIQC+3PLjCjyNa111EGZi
GSvbuhGXb+84OzN/PLheObHfxQIhALYAWoVE8Ubw8OopiBloCKuJVPhChnpUBEMy
LF56ZaK1
-----END CERTIFICATE-----
`
)

// goldens returns what each block of docs/protocol.md must mean.
func goldens() map[string]golden {
	all := map[string]golden{}
	for _, part := range []map[string]golden{requests(), answers(), jobMessages(), jobRequests()} {
		for name, g := range part {
			all[name] = g
		}
	}
	return all
}

func requests() map[string]golden {
	csr := csrPEM
	days := 365
	return map[string]golden{
		"get-package": getRequest(protocol.GetRequest{ClientToken: "a1"}),
		"get-csr":     getRequest(protocol.GetRequest{CSR: &csr, PreviousCertificateID: previousID, ClientToken: "a2"}),
		"get-csr-pca": getRequest(protocol.GetRequest{CSR: &csr, ACMPCA: &protocol.ACMPCAParameters{
			IoTCAAlias: "dev", IoTCAID: "0a1b2c", PCAAlias: "dev",
			PCAARN: "arn:aws:acm-pca:eu-west-1:123456789012:certificate-authority/8f1c",
			CertInfo: &protocol.CertInfo{
				CommonName: device, Organization: "Example", OrganizationalUnit: "Field", Locality: "Leiden",
				StateName: "Zuid-Holland", Country: "NL", EmailAddress: "ops@example.org", DaysExpiry: &days,
			},
		}}),
		"ack":       ackRequest(protocol.AckRequest{ClientToken: "a3"}),
		"ack-named": ackRequest(protocol.AckRequest{PreviousCertificateID: previousID, ClientToken: "a4"}),
		"ack-proof": ackRequest(protocol.AckRequest{CertificateID: certificateID, Proof: proof, ClientToken: "a5"}),
		"ack-trust-anchors": ackRequest(protocol.AckRequest{
			TrustAnchorsSHA256: "24b325ab44f85d2804652240c9a660c74ef5a161b8b4cc3fe55c087d91477617", ClientToken: "a6",
		}),
	}
}

func answers() map[string]golden {
	return map[string]golden{
		"get-accepted-package": message(protocol.GetAccepted{
			DeviceID: device, Action: protocol.Get, CertificateID: packageID, Location: packageLink, ClientToken: "a1",
		}),
		"get-accepted-trust-anchors": message(protocol.GetAccepted{
			DeviceID: device, Action: protocol.Get, CertificateID: packageID, Location: packageLink,
			TrustAnchors: chainPEM[strings.LastIndex(chainPEM, "-----BEGIN"):], ClientToken: "a1",
		}),
		"get-accepted-csr": message(protocol.GetAccepted{
			DeviceID: device, Action: protocol.Get, CertificateID: certificateID, Certificate: certificatePEM,
			Chain: chainPEM, NotAfter: notAfter, Nonce: nonce, ClientToken: "a2",
		}),
		"ack-accepted": message(protocol.AckAccepted{DeviceID: device, Action: protocol.Ack, Message: "OK", ClientToken: "a3"}),
		"get-rejected": message(protocol.Rejected{
			DeviceID: device, Action: protocol.Get, Message: protocol.CSRRejected,
			Detail: "certificate request refused: an RSA key of 1024 bits, instead of 2048 to 4096", ClientToken: "a2",
		}),
		"get-rejected-later": message(protocol.Rejected{
			DeviceID: device, Action: protocol.Get, Message: protocol.TryAgainLater, RetryAfter: 60, ClientToken: "a2",
		}),
		"ack-rejected": message(protocol.Rejected{
			DeviceID: device, Action: protocol.Ack, Message: protocol.NotProven,
			Detail: "connect with the new certificate, then ack", ClientToken: "a3",
		}),
	}
}

func jobMessages() map[string]golden {
	summary := protocol.JobSummary{
		JobID: jobID, QueuedAt: queuedAt, StartedAt: queuedAt + 2, LastUpdatedAt: queuedAt + 2, VersionNumber: 2, ExecutionNumber: 1,
	}
	queued := protocol.JobExecution{
		JobID: jobID, ThingName: device, Status: protocol.JobQueued, QueuedAt: queuedAt, LastUpdatedAt: queuedAt,
		VersionNumber: 1, ExecutionNumber: 1, JobDocument: jsontext.Value(document),
	}
	started := queued
	started.Status, started.StartedAt, started.LastUpdatedAt = protocol.JobInProgress, queuedAt+2, queuedAt+2
	started.VersionNumber, started.ApproximateSecondsBeforeTimeout = 2, 86398
	return map[string]golden{
		"job-document": message(protocol.NewJobDocument(protocol.DefaultTopics())),
		"job-notify": message(protocol.JobNotify{
			Timestamp: queuedAt + 2, Jobs: map[protocol.JobStatus][]protocol.JobSummary{protocol.JobInProgress: {summary}},
		}),
		"job-notify-next": message(protocol.JobExecutionReply{Execution: &queued, Timestamp: queuedAt}),
		"job-get-accepted": message(protocol.JobGetAccepted{
			InProgressJobs: []protocol.JobSummary{summary}, QueuedJobs: []protocol.JobSummary{},
			Timestamp: queuedAt + 3, ClientToken: "b1",
		}),
		"job-start-next-accepted": message(protocol.JobExecutionReply{Execution: &started, Timestamp: queuedAt + 2, ClientToken: "b2"}),
		"job-update-accepted": message(protocol.JobUpdateAccepted{
			ExecutionState: &protocol.JobExecutionState{
				Status: protocol.JobSucceeded, StatusDetails: map[string]string{"certificate": "stored"}, VersionNumber: 3,
			},
			JobDocument: jsontext.Value(document), Timestamp: queuedAt + 9, ClientToken: "b4",
		}),
		"job-rejected": message(protocol.JobRefusal{
			Code: protocol.JobVersionMismatch, Message: "the execution is at version 3", ClientToken: "b5", Timestamp: queuedAt + 9,
			ExecutionState: &protocol.JobExecutionState{Status: protocol.JobInProgress, VersionNumber: 3},
		}),
	}
}

func jobRequests() map[string]golden {
	yes := true
	return map[string]golden{
		"job-start-next": message(protocol.JobStartNext{
			StatusDetails: map[string]string{"step": "asking"}, StepTimeoutInMinutes: 30, ClientToken: "b2",
		}),
		"job-describe": message(protocol.JobDescribe{ExecutionNumber: 1, IncludeJobDocument: &yes, ClientToken: "b3"}),
		"job-update": message(protocol.JobUpdate{
			Status: protocol.JobSucceeded, StatusDetails: map[string]string{"certificate": "stored"},
			ExpectedVersion: jsontext.Value(`"2"`), ExecutionNumber: 1, IncludeJobExecutionState: true,
			IncludeJobDocument: true, StepTimeoutInMinutes: 30, ClientToken: "b4",
		}),
	}
}
