# What people type. `make ci` is what must pass before a commit is shared.

GO ?= go
STATICCHECK ?= $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 1m
export CGO_ENABLED ?= 0

.PHONY: build packages test race lint fuzz demo bench-peers ci clean

build: ## both programs, into bin/
	$(GO) build -trimpath -o bin/ ./cmd/...

packages: ## .deb and .rpm for amd64, arm64 and armhf, with SHA256SUMS, into dist/
	deploy/package

test:
	$(GO) test ./...

race: ## the race detector needs cgo
	CGO_ENABLED=1 $(GO) test -race ./...

lint: ## golangci-lint run reads .golangci.yml and finds more; this needs nothing installed
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...

fuzz: ## every fuzz target, each for FUZZTIME
	.ci/fuzz $(FUZZTIME)

demo:
	$(GO) run ./cmd/certvendor demo

bench-peers: ## builds the peers, measures beside them, and writes docs/performance.md; ten minutes
	$(GO) run -C bench . --write ../docs/performance.md

ci:
	.ci/run

clean:
	rm -rf bin dist
