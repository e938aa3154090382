# Three targets: api (no torch), gpu (CUDA build of torch) and cpu (everything on one machine).
#   docker build --target api -t diffplugin-serve:api .
# The plugins store lies in the image; mount another one at /app/plugins_store to change plugins
# without a new image. The root file system may be read-only: only /tmp is written.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY scripts/licence_notices scripts/licence_notices
COPY service service

FROM build AS build-api
RUN pip install -c constraints.txt '.[otel]'
RUN python scripts/licence_notices > /opt/venv/THIRD_PARTY_NOTICES

FROM build AS build-cpu
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu \
    -c constraints.txt '.[engine,otel]'
RUN python scripts/licence_notices > /opt/venv/THIRD_PARTY_NOTICES

FROM build AS build-gpu
RUN pip install -c constraints.txt '.[engine,otel]'
RUN python scripts/licence_notices > /opt/venv/THIRD_PARTY_NOTICES

FROM python:3.11-slim AS runtime
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Diff-Plugin Serve" \
    org.opencontainers.image.description="Image restoration from a photo and a sentence" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION"
RUN groupadd --gid 10001 diffplugin && useradd --uid 10001 --gid diffplugin \
    --home-dir /tmp --no-create-home --shell /usr/sbin/nologin diffplugin
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

FROM runtime AS api
COPY --from=build-api /opt/venv /opt/venv
EXPOSE 8000 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
CMD ["diffplugin", "api"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/venv /opt/venv
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s CMD ["diffplugin", "workers", "--here"]
CMD ["diffplugin", "worker"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
EXPOSE 8000 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
CMD ["diffplugin", "serve"]
