# Nothing but Python: what it runs comes by a hostPath volume (tools/devcluster/image_build/environment.py).
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
USER 10001:10001
WORKDIR /tmp
CMD ["python"]
