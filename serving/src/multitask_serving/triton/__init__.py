"""Triton Inference Server: what it loads (repository, backend), how it is started, called and probed.

Layers, lowest first: ``wire`` → ``requests`` → ``scheduler`` → ``backend`` (all three run inside Triton) ·
``repository`` · ``installation``, ``processes``, ``log`` → ``server`` · ``client`` → ``probe``.
"""
