# Three targets: api (no torch), gpu (CUDA build of torch) and cpu (everything on one machine).
#   docker build --target api -t diffplugin-serve:api .
# The plugins store lies in the image; mount another one at /app/plugins_store to change plugins
# without a new image.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service service

FROM build AS build-api
RUN pip install -c constraints.txt .

FROM build AS build-cpu
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu \
    -c constraints.txt '.[engine]'

FROM build AS build-gpu
RUN pip install -c constraints.txt '.[engine]'

FROM python:3.11-slim AS runtime
RUN useradd --system --uid 10001 --no-create-home diffplugin
WORKDIR /app
COPY plugins_store plugins_store
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    DIFFPLUGIN_HOST=0.0.0.0 \
    DIFFPLUGIN_PLUGINS_STORE=/app/plugins_store
USER diffplugin
EXPOSE 8000 50051

FROM runtime AS api
COPY --from=build-api /opt/venv /opt/venv
CMD ["diffplugin", "api"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/venv /opt/venv
CMD ["diffplugin", "worker"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
CMD ["diffplugin", "serve"]
