"""From encoded rows to the tensors of one optimizer step.

``sampler`` (which rows) · ``dataset`` (rows as token ids) → ``batches`` (padded or packed micro-batches); ``corpus``
does the same for the texts of domain pre-training.
"""
