# A worker that trains on an NVIDIA GPU, through a PJRT plugin and the libraries of NVIDIA that it opens. The driver comes
# from the machine (NVIDIA container toolkit). Built from the root of the repository:
#
#	docker build -f deploy/docker/worker-gpu.Dockerfile -t surmise/worker-gpu:dev .

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY deploy/setup.sh deploy/setup.sh
COPY go.mod go.sum ./
RUN deploy/setup.sh build && go mod download
COPY . .
ARG VERSION=unknown
RUN go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/worker ./cmd/worker

# The plugin is a wheel like the libraries beside it; no Python runs in the image that comes of it.
FROM python:3.13-slim-bookworm AS plugin
ARG PLUGIN=jax-cuda12-plugin[with-cuda]==0.12.0.1
RUN pip install --no-cache-dir --target /opt/pjrt "$PLUGIN"

FROM debian:12.12-slim
COPY deploy/setup.sh /tmp/setup.sh
RUN /tmp/setup.sh run && rm -rf /tmp/setup.sh /var/lib/apt/lists/* && install -d -o 65532 -g 65532 /var/lib/surmise /var/cache/surmise
COPY --from=plugin /opt/pjrt /opt/pjrt
COPY --from=build /out/worker /usr/local/bin/worker
USER 65532:65532
ENV HOME=/var/lib/surmise
# Where the worker looks for jax_plugins/xla_cuda12/xla_cuda_plugin.so and the folders nvidia/*/lib beside it.
ENV PYTHONPATH=/opt/pjrt
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 9533
ENTRYPOINT ["/usr/local/bin/worker"]
CMD ["--data-dir=/var/lib/surmise", "--cache-dir=/var/cache/surmise"]
