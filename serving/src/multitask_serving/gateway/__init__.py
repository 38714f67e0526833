"""The gRPC gateway keyed by task: ``multitask.v1.TaskGateway``.

Layers, lowest first: ``errors`` → ``routes`` · ``validation`` (both pure) · ``route_file`` · ``stats`` → ``backends`` →
``service`` · ``interceptor`` → ``server``.
"""
