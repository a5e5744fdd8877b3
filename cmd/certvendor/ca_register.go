package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/config"
)

// caFlags are those of ca register.
type caFlags struct {
	certificate, key, kmsKey, pca, mode string
	putKey                              bool
	parameterKey                        string
}

func (c *cli) caRegister() *cobra.Command {
	var f caFlags
	cmd := &cobra.Command{
		Use:   "register (--certificate FILE [--key FILE | --kms-key KEY] | --pca ARN)",
		Short: "On backend aws: register a CA in AWS IoT, and see that it is ACTIVE", Args: cobra.NoArgs,
		Long: `On backend aws: register a CA in AWS IoT, and see that it is ACTIVE.

In mode sni-only AWS IoT takes the CA's certificate as it is, and devices must send SNI,
as every TLS library does that is not very old. In mode default the CA proves that its key
is yours: it signs a certificate for the account's registration code. That takes the key:
in a file, in KMS, or in ACM Private CA, which is paid for that one certificate.

--put-key puts the key of --key into SSM, as the SecureString under which the daemon looks
for it. What is done already stays as it is, so that the verb may be run again. It calls AWS
as you, not as the daemon. It needs the configuration, but for aws.issuer.ca, which it says
in the end.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			request, err := f.request()
			if err != nil {
				return fmt.Errorf("ca register: %w", err)
			}
			cfg, err := c.loadBeforeCA(request.Certificate)
			if err != nil {
				return err
			}
			done, err := app.RegisterCA(cmd.Context(), cfg, request)
			if err != nil {
				return fmt.Errorf("ca register: %w", err)
			}
			return c.print(viewOf(done), func(w io.Writer) { f.words(w, done) })
		},
	}
	cmd.Flags().StringVar(&f.certificate, "certificate", "", "PEM file with the CA's certificate")
	cmd.Flags().StringVar(&f.key, "key", "", "PEM file with its key")
	cmd.Flags().StringVar(&f.kmsKey, "kms-key", "", "its key in KMS: an id, an alias or an ARN")
	cmd.Flags().StringVar(&f.pca, "pca", "", "the ARN of a CA of ACM Private CA")
	cmd.Flags().StringVar(&f.mode, "mode", "sni-only", "sni-only, or default: the CA proves that its key is yours")
	cmd.Flags().BoolVar(&f.putKey, "put-key", false, "put the key of --key into SSM")
	cmd.Flags().StringVar(&f.parameterKey, "parameter-key", "", "the KMS key that encrypts it there; default: the account's own for SSM")
	return cmd
}

// request reads the files and refuses what does not fit together.
func (f caFlags) request() (app.CARequest, error) {
	r := app.CARequest{KMSKey: f.kmsKey, PCA: f.pca, Verified: f.mode == "default", PutKey: f.putKey, ParameterKey: f.parameterKey}
	switch {
	case f.mode != "default" && f.mode != "sni-only":
		return r, errors.New("--mode is sni-only or default")
	case (f.pca == "") == (f.certificate == ""):
		return r, errors.New("name one of --certificate and --pca")
	case f.key != "" && f.kmsKey != "":
		return r, errors.New("--key and --kms-key: a CA has one key")
	case f.pca != "" && (f.key != "" || f.kmsKey != ""):
		return r, errors.New("--pca: ACM Private CA keeps the key")
	case f.certificate != "" && r.Verified && f.key == "" && f.kmsKey == "":
		return r, errors.New("--mode default takes the CA's key: --key or --kms-key")
	case f.putKey && f.key == "":
		return r, errors.New("--put-key takes --key")
	}
	for _, file := range []struct {
		name string
		text *[]byte
	}{{f.certificate, &r.Certificate}, {f.key, &r.Key}} {
		if file.name == "" {
			continue
		}
		text, err := readBounded(file.name, maxPEM)
		if err != nil {
			return r, err
		}
		*file.text = text
	}
	return r, nil
}

// loadBeforeCA reads a configuration in which the CA is still missing, as if it
// were there: the id of a CA is known before anybody else knows the CA.
func (c *cli) loadBeforeCA(ca []byte) (config.Config, error) {
	environ := os.Environ()
	if block, _ := pem.Decode(ca); block != nil {
		environ = append(environ, "CERTVENDOR_AWS_ISSUER_CA="+string(certificate.IDOf(block.Bytes)))
	}
	return config.Load(c.config, environ)
}

// registeredCA is what `ca register --json` prints.
type registeredCA struct {
	ID        string    `json:"id"`
	Subject   string    `json:"subject"`
	NotAfter  time.Time `json:"notAfter"`
	Mode      string    `json:"mode,omitempty"`
	Status    string    `json:"status"`
	Made      bool      `json:"registered"` // by this run
	Woken     bool      `json:"activated"`  // by this run
	Parameter string    `json:"parameter,omitempty"`
	Put       bool      `json:"put"` // by this run
	YAML      string    `json:"configuration"`
}

func viewOf(done app.CARegistered) registeredCA {
	return registeredCA{
		ID: string(done.ID), Subject: done.Subject, NotAfter: done.NotAfter, Mode: string(done.Mode), Status: string(done.Status),
		Made: done.Made, Woken: done.Woken, Parameter: done.Parameter, Put: done.Put, YAML: done.YAML,
	}
}

func (f caFlags) words(w io.Writer, done app.CARegistered) {
	was := "was registered already"
	switch {
	case done.Made:
		was = "is registered now"
	case done.Woken:
		was = "was registered already, and is made ACTIVE now"
	}
	fmt.Fprintf(w, "CA           %s\ncertificate  %s, until %s\nAWS IoT      %s: it %s; mode %s\n",
		done.Subject, done.ID, when(done.NotAfter), done.Status, was, dash(string(done.Mode)))
	switch {
	case done.Put:
		fmt.Fprintf(w, "key          put into SSM as %s\n", done.Parameter)
	case done.Parameter != "":
		fmt.Fprintf(w, "key          was in SSM already, as %s\n", done.Parameter)
	case f.pca == "" && f.kmsKey == "":
		fmt.Fprintf(w, "key          not put into SSM: --put-key with --key does that\n")
	}
	fmt.Fprintf(w, "\nWrite into the configuration:\n\n%s", done.YAML)
}
