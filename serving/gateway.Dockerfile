# The gateway: one gRPC address for all tasks of a cluster. Built from the repository's root:
#   docker build --file serving/gateway.Dockerfile --tag multitask-gateway:0.1.0 .
# Any image with Python 3.11 or 3.12 and its venv module will do as the base; both stages need the same one.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /build
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/multitask
COPY requirements-build.lock requirements-gateway.lock ./
# Wheels are made by tools from the lock, not by whatever an index has today; bytecode, because the root file system of a
# pod is read-only.
RUN tools/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock \
    && tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --require-hashes \
        --wheel-dir wheels -r requirements-gateway.lock \
    && tools/bin/pip --python /opt/multitask/bin/python install --no-cache-dir --no-deps --no-index --compile wheels/*.whl \
    && rm -r wheels
COPY crds crds
COPY client client
COPY kubernetes-client kubernetes-client
COPY serving serving
RUN tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --no-index --wheel-dir wheels \
        ./crds ./client ./kubernetes-client ./serving \
    && tools/bin/pip --python /opt/multitask/bin/python install --no-cache-dir --no-deps --no-index --compile wheels/*.whl
COPY LICENSE /opt/multitask/LICENSE

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="multitask-gateway" \
      org.opencontainers.image.description="Answers requests for tasks from the servers of their models." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/multitask /opt/multitask
ENV PATH=/opt/multitask/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
CMD ["python", "-m", "multitask_serving.gateway"]
