"""Requests to a Kubernetes API server, and watches that keep local copies current, for operator and gateway.

Layers, lowest first: ``errors`` · ``kinds`` → ``connection`` · ``hooks`` → ``client`` → ``streams`` → ``logs`` ·
``store`` → ``reflector``.
"""
