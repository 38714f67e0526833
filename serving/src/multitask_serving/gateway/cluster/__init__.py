"""The gateway in a cluster: ``python -m multitask_serving.gateway``.

Layers, lowest first: ``slices`` · ``tables`` (both pure) · ``settings`` · ``http`` → ``cluster_routes`` →
``acknowledge`` · ``metrics`` → ``program``.
"""
