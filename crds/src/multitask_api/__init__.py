"""The MultiTaskModel resource and everything derived from it without I/O.

Imports point one way; the layers, lowest first:

``errors`` · ``types`` · ``template`` · ``uris`` → ``bundle`` (what is served) → ``resource`` (what a user writes, what
status shows) → ``routes`` (who answers which task) · ``stage_io`` (orders, parameters, results and manifests of stages)
→ ``stages`` (the graph) → ``cluster`` (the contract of the operator and its pods) · ``data_check`` · ``report``.
``crd`` generates the custom resource definitions. ``pdeathsig``, beside the layers, starts programs.
"""
