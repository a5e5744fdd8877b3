# certvendor in a container: the static program, the roots that it verifies AWS
# and webhooks by, and nothing else. docs/aws.md says how it is run.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/ ./cmd/...
RUN mkdir -p /image/var/lib/certvendor /image/tmp && chmod 0700 /image/var/lib/certvendor

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /image/ /
COPY --from=build /src/bin/certvendor /certvendor
# The configuration is read from a directory that the program cannot write.
ENV CERTVENDOR_AWS_DATA=/var/lib/certvendor \
    CERTVENDOR_STANDALONE_DATA=/var/lib/certvendor \
    CERTVENDOR_CONTROL_SOCKET=/var/lib/certvendor/control.sock
USER 65532:65532
VOLUME /var/lib/certvendor
ENTRYPOINT ["/certvendor"]
CMD ["serve", "--config", "/etc/certvendor/certvendor.yaml"]
