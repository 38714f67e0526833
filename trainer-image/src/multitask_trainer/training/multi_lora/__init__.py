"""LoRA runs of one task each that train together on one frozen base; each ends as it would have ended alone.

``batches`` (rows of all runs in one micro-batch) · ``step`` (one pass for the gradients of all, an optimizer for each)
· ``loop`` (each run's own schedule, validations, checkpoints and end) · ``run`` (from orders to results).
"""
