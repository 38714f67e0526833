"""The MultiTaskModel resource and everything derived from it without I/O.

Imports point one way; the layers, lowest first:

``errors`` · ``types`` → ``digests`` · ``sampling`` → ``resource`` (what a user writes, what status shows) →
``bundle`` · ``routes`` (what is served, and to whom) → ``parameters`` · ``results`` · ``manifest`` (what a stage is
told, finds and leaves) → ``stages`` (the graph) → ``report``.
"""
