"""The training loop and its parts: which rows, in which order, with which loss, until when.

Lowest first: ``sampler`` · ``schedule`` · ``selection`` (pure) → ``dataset`` → ``batches`` → ``loss`` → ``validation``
→ ``checkpoint`` → ``loop`` → ``run`` (what the three training stages share). For the base stage: ``builtin`` (models
made here) · ``corpus`` → ``pretraining``.
"""
