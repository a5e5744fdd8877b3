// Package standalone is the world of one's own machines: an MQTT broker in
// this process, a CA whose keys are files, and a directory of packages behind
// signed links. What it knows of devices it keeps in the SQL store.
//
// Everything durable lives in one data directory. Read durable.go for how it
// comes into being, ca.go for whom the broker trusts and who signs, broker.go
// for how a device gets in and what it may do, jobs.go for the part of the AWS
// IoT Jobs API that it speaks, and packages.go with links.go for pre-created
// packages and how they are fetched. backup.go and restore.go are how all of it
// leaves the machine and comes back.
package standalone
