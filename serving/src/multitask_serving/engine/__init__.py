"""Runs the models, for evaluation and for serving alike: what was measured is what is served.

Layers, lowest first: ``errors`` · ``batching`` → ``prompt`` (text to token ids) · ``model`` (weights and adapters) →
``classification`` · ``generation`` → ``types`` → ``engine`` (requests in, results out).
"""
