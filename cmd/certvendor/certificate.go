package main

import "github.com/spf13/cobra"

func (c *cli) certificate() *cobra.Command {
	return group("certificate", "Certificates, who holds them and how they stand", c.certificateRevoke())
}
