# Builds and runs the gateway. docs/how-to/containers.md
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends mold && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release -p ringway

FROM debian:bookworm-slim
COPY --from=build /src/target/release/ringway /usr/local/bin/ringway
COPY examples/quickstart.yaml /etc/ringway/ringway.yaml
USER 65532:65532
EXPOSE 9080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=2s --start-period=5s CMD ["ringway", "status", "--ready", "-c", "/etc/ringway/ringway.yaml"]
ENTRYPOINT ["ringway"]
CMD ["run", "-c", "/etc/ringway/ringway.yaml"]
