# Two images that serve the shipped weights:
#   docker build --target cpu  -t segmentation:cpu  .
#   docker build --target cuda -t segmentation:cuda .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS environment
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv --without-pip /opt/venv
WORKDIR /build

# The compiler is only in this stage.
FROM environment AS native
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY model ./model
RUN python -m model.engines.native.library

# The CPU image uses the native engine. Without PyTorch, it has a tenth of the size.
FROM environment AS cpu-environment
COPY deploy/requirements/base.txt .
RUN pip --python /opt/venv/bin/python install --require-hashes -r base.txt

FROM environment AS cuda-environment
COPY deploy/requirements/serve.txt .
RUN pip --python /opt/venv/bin/python install --require-hashes -r serve.txt

FROM python:${PYTHON}-slim AS service
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin segmentation
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SEG_HOST=0.0.0.0 \
    SEG_LOG_FORMAT=json
WORKDIR /srv
COPY LICENSE ./
COPY app ./app
COPY --from=native /build/model ./model
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + (os.environ.get('SEG_OPERATIONS_PORT') or os.environ.get('SEG_PORT', '8000')) + '/health/ready', timeout=2)"]
CMD ["python", "-m", "app"]

FROM service AS cuda
# When the engine starts, Triton compiles the head's kernels with this compiler into this folder.
USER 0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 10001
ENV TRITON_CACHE_DIR=/tmp/triton
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda-environment /opt/venv /opt/venv

FROM service AS cpu
ENV SEG_DEVICE=cpu
COPY --from=cpu-environment /opt/venv /opt/venv
