# Three targets: api (no torch), cpu (everything on one machine) and gpu (CUDA build of torch).
#   docker build --target api -t diffplugin-serve:api .
# The plugins store lies in the image; mount another one at /app/plugins_store to change plugins
# without a new image. The root file system may be read-only: only /tmp is written.
# Each target stands right after what it alone needs: older builders build every stage before it.
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/* && python3 -m venv /opt/venv
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY scripts/licence_notices scripts/licence_notices
COPY service service

FROM debian:bookworm-slim AS runtime
RUN apt-get update && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 diffplugin && useradd --uid 10001 --gid diffplugin \
    --home-dir /tmp --no-create-home --shell /usr/sbin/nologin diffplugin
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Diff-Plugin Serve" \
    org.opencontainers.image.description="Image restoration from a photo and a sentence" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION"
WORKDIR /app
COPY LICENSE ./
COPY plugins_store plugins_store
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DIFFPLUGIN_HOST=0.0.0.0 \
    DIFFPLUGIN_PLUGINS_STORE=/app/plugins_store
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001

FROM build AS build-api
RUN pip install -c constraints.txt '.[otel]' \
    && python scripts/licence_notices > /opt/venv/THIRD_PARTY_NOTICES

FROM runtime AS api
COPY --from=build-api /opt/venv /opt/venv
EXPOSE 8000 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
CMD ["diffplugin", "api"]

FROM build AS build-cpu
# Where pip finds the CPU build of torch, which is much smaller than that of PyPI.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt '.[engine,otel]' \
    && python scripts/licence_notices > /opt/venv/THIRD_PARTY_NOTICES

FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
EXPOSE 8000 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
CMD ["diffplugin", "serve"]

FROM build AS build-gpu
RUN pip install -c constraints.txt '.[engine,otel]' \
    && python scripts/licence_notices > /opt/venv/THIRD_PARTY_NOTICES

FROM runtime AS gpu
COPY --from=build-gpu /opt/venv /opt/venv
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s CMD ["diffplugin", "workers", "--here"]
CMD ["diffplugin", "worker"]
