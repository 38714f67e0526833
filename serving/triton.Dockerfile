# The servers of a revision: Triton, the engine, and the program that fetches a bundle. Built from the repository's root:
#   docker build --file serving/triton.Dockerfile --tag multitask-triton:0.1.0 .
# With a base that has Triton in /opt/tritonserver, as NVIDIA's images (nvcr.io/nvidia/tritonserver:YY.MM-py3), that one
# is used. On another base it is the tritonserver of the PyPI package nvidia-pytriton. The base needs Python 3.11 or 3.12
# with its shared library and its venv module; Triton's Python backend must be for the same one. Both stages need the same
# base.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /build
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/multitask
COPY requirements-build.lock requirements-serving.lock requirements-triton.lock ./
# Wheels are made by tools from the locks, not by whatever an index has today; bytecode, because the root file system of a
# pod is read-only.
RUN locks="-r requirements-serving.lock" \
    && { [ -x /opt/tritonserver/bin/tritonserver ] || locks="$locks -r requirements-triton.lock"; } \
    && tools/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock \
    && tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --require-hashes --wheel-dir wheels $locks \
    && tools/bin/pip --python /opt/multitask/bin/python install --no-cache-dir --no-deps --no-index --compile wheels/*.whl \
    && rm -r wheels
COPY crds crds
COPY client client
COPY serving serving
COPY trainer-image trainer-image
# Of the trainer only the program that fetches a bundle runs here: without the libraries of training.
RUN tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --no-index --wheel-dir wheels \
        ./crds ./client ./serving ./trainer-image \
    && tools/bin/pip --python /opt/multitask/bin/python install --no-cache-dir --no-deps --no-index --compile wheels/*.whl
COPY LICENSE /opt/multitask/LICENSE

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="multitask-triton" \
      org.opencontainers.image.description="The servers of one model for many text tasks: Triton and the engine." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/multitask /opt/multitask
ENV PATH=/opt/multitask/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
# The operator sets what a container runs: this, or the program that fetches a bundle.
CMD ["python", "-m", "multitask_serving.pod"]
