"""The training loop and its parts: which rows, in which order, with which loss, until when.

Lowest first: ``schedule`` · ``selection`` · ``group_plan`` (pure) → ``batching`` (which rows, and the tensors of a
step) → ``loss`` → ``validation`` → ``checkpoint`` → ``loop`` (with ``optimizer``, ``loss_meter``, ``accelerator``) →
``run`` (what the three training stages share). For the base stage: ``pretraining``.
"""
