"""The gRPC gateway keyed by task: ``multitask.v1.TaskGateway``.

Layers, lowest first: ``faults`` → ``routes`` (pure) · ``requests`` (pure) · ``watch`` · ``stats`` → ``triton`` →
``service`` · ``interceptor`` → ``server``.
"""
