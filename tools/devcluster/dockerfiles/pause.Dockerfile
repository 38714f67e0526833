# What containerd keeps a pod's namespaces open with.
FROM scratch
COPY pause /pause
USER 65535:65535
ENTRYPOINT ["/pause"]
