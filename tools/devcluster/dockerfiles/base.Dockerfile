# A stand-in for python:3.11-slim-bookworm where no registry can be reached: Debian, with Debian's Python.
FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["python"]
