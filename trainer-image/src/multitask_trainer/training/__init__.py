"""The training loop and its parts: which rows, in which order, with which loss, until when.

Lowest first: ``sampler`` · ``schedule`` · ``selection`` · ``group_plan`` (pure) → ``dataset`` → ``batches`` → ``loss``
→ ``validation`` → ``checkpoint`` → ``loop`` (with ``optimizer``, ``loss_meter``, ``accelerator``) → ``run`` (what the
three training stages share). For the base stage: ``corpus`` → ``pretraining``.
"""
