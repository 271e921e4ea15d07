# The root file system of the managed plugin, as `make plugin` makes it without an
# engine. With config.json beside it, it is the plugin:
#
#   docker build --output dist/plugin/rootfs . && cp config.json dist/plugin
#   docker plugin create drawbridge/drawbridge:latest dist/plugin

FROM golang:1.26-bookworm AS program
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN make build

# Legacy iptables and what it is linked with; see packaging/rootfs.
FROM debian:12-slim AS rootfs
RUN apt-get update && apt-get install --yes --no-install-recommends iptables
COPY packaging/rootfs /usr/local/bin/
COPY --from=program /src/bin/drawbridge /usr/local/bin/
RUN rootfs /usr/local/bin/drawbridge /rootfs

FROM scratch
COPY --from=rootfs /rootfs/ /
ENTRYPOINT ["/usr/sbin/drawbridge"]
