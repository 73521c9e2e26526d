# The coordinator: one static program and the certificates of public authorities, nothing else. Built from the root of the
# repository:
#
#	docker build -f deploy/docker/coordinator.Dockerfile --build-arg VERSION=$(git describe --always) -t surmise/coordinator:dev .

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/coordinator ./cmd/coordinator
# Folders that the program may write to when nothing is mounted there.
RUN mkdir -p /out/state /out/tmp && chmod 1777 /out/tmp

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/tmp /tmp
COPY --from=build --chown=65532:65532 /out/state /var/lib/surmise
COPY --from=build /out/coordinator /coordinator
USER 65532:65532
EXPOSE 7433 9533
ENTRYPOINT ["/coordinator"]
CMD ["--data-dir=/var/lib/surmise"]
