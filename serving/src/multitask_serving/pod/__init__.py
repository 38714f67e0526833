"""What the container ``server`` of a revision's pods runs: Triton, and the probes that Kubernetes asks.

Layers, lowest first: ``golden`` · ``health`` → ``probes`` · ``monitor`` → ``program``. The operator writes
``python -m multitask_serving.pod`` into Deployments, also into those of older images: the name stays.
"""
