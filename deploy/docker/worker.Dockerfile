# A worker that trains and scores on CPUs. Kernels for every instruction set are in it, and chosen when it starts. Built
# from the root of the repository:
#
#	docker build -f deploy/docker/worker.Dockerfile -t surmise/worker:dev .

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY deploy/setup.sh deploy/setup.sh
COPY go.mod go.sum ./
RUN deploy/setup.sh build && go mod download
COPY . .
ARG VERSION=unknown
RUN go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/worker ./cmd/worker

# The same Debian as the one it was built on: OpenCV and oneDNN are its.
FROM debian:12.12-slim
COPY deploy/setup.sh /tmp/setup.sh
RUN /tmp/setup.sh run && rm -rf /tmp/setup.sh /var/lib/apt/lists/* && install -d -o 65532 -g 65532 /var/lib/surmise /var/cache/surmise
COPY --from=build /out/worker /usr/local/bin/worker
USER 65532:65532
ENV HOME=/var/lib/surmise
EXPOSE 9533
# Decoders are processes that this one starts and waits for; SIGTERM makes it take a checkpoint and hand its job back.
ENTRYPOINT ["/usr/local/bin/worker"]
CMD ["--data-dir=/var/lib/surmise", "--cache-dir=/var/cache/surmise"]
