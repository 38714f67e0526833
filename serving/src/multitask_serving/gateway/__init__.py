"""The gRPC gateway keyed by task: ``multitask.v1.TaskGateway``.

Layers, lowest first: ``errors`` → ``routes`` · ``validation`` (both pure) · ``route_file`` · ``stats`` → ``access`` ·
``backends`` → ``service`` · ``interceptor`` → ``server``.
"""
