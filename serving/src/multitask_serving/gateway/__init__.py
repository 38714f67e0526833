"""The gRPC gateway keyed by task: ``multitask.v1.TaskGateway``.

Layers, lowest first: ``errors`` → ``routes`` · ``validation`` · ``retry_budget`` → ``choice`` (all pure) · ``stats`` ·
``endpoints`` · ``route_file`` → ``access`` · ``backends`` → ``dispatch`` → ``service`` · ``interceptor`` → ``server`` →
``cluster``, the program that follows the TaskRoutes of a cluster.
"""
