package protocol

// Reason says why a request was refused. It is the member message of a
// rejected reply, the log field and the metric label at once, and stable: a
// reason is never renamed. What people may want to know besides goes into the
// member detail.
type Reason string

// The reasons of the CDF Certificate Vendor, spelled as it spells them, so that
// firmware in the field understands them.
const (
	NotAllowed        Reason = "DEVICE_NOT_WHITELISTED"
	RegistryFailed    Reason = "UNABLE_TO_CHECK_WHITELIST"
	NoPackage         Reason = "CERTIFICATE_NOT_FOUND"
	NoCertificateID   Reason = "MISSING_CERTIFICATE_ID"
	ActivationFailed  Reason = "UNABLE_TO_ACTIVATE_CERTIFICATE"
	LinkFailed        Reason = "UNABLE_TO_PRESIGN_URL"
	NoCA              Reason = "UNABLE_TO_GET_CA_CERTIFICATE"
	NoCAKey           Reason = "UNABLE_TO_FETCH_CA_KEY"
	IssueFailed       Reason = "UNABLE_TO_ISSUE_CERTIFICATE"
	RegisterFailed    Reason = "UNABLE_TO_REGISTER_CERTIFICATE"
	AttachFailed      Reason = "UNABLE_TO_ATTACH_CERTIFICATE"
	PolicyFailed      Reason = "UNABLE_TO_ATTACH_POLICY"
	PublishFailed     Reason = "UNABLE_TO_PUBLISH_RESPONSE"
	InvalidIoTCAAlias Reason = "Invalid `awsiotCaAlias`."
	InvalidPCAAlias   Reason = "Invalid `acmpcaCaAlias`."
	NoIoTCA           Reason = "Either `awsiotCaAlias` or `awsiotCaId` must be provided"
	NoPCA             Reason = "Either `acmpcaCaAlias` or `acmpcaCaArn` must be provided."
)

// The reasons that the original has no word for.
const (
	Malformed       Reason = "MALFORMED_REQUEST"
	CSRRejected     Reason = "CSR_REJECTED"
	NotBound        Reason = "CALLER_NOT_BOUND"
	PreviousNotHeld Reason = "PREVIOUS_CERTIFICATE_NOT_HELD"
	CANotAllowed    Reason = "CA_NOT_ALLOWED"
	TooManyRequests Reason = "TOO_MANY_REQUESTS"
	NoOpenRotation  Reason = "NO_OPEN_ROTATION"
	NotProven       Reason = "ACK_NOT_PROVEN"
	TryAgainLater   Reason = "TRY_AGAIN_LATER"
	Internal        Reason = "INTERNAL"
)

// Reasons lists every reason there is, in the order of this file.
func Reasons() []Reason {
	return []Reason{
		NotAllowed, RegistryFailed, NoPackage, NoCertificateID, ActivationFailed,
		LinkFailed, NoCA, NoCAKey, IssueFailed, RegisterFailed, AttachFailed,
		PolicyFailed, PublishFailed, InvalidIoTCAAlias, InvalidPCAAlias, NoIoTCA, NoPCA,
		Malformed, CSRRejected, NotBound, PreviousNotHeld, CANotAllowed,
		TooManyRequests, NoOpenRotation, NotProven, TryAgainLater, Internal,
	}
}
