"""The processes of one training: each with all weights, or with its part of weights that one GPU cannot hold.

`DataParallel` and `FullySharded` (FSDP2) are the two; ``lockstep`` keeps processes together in passes that each makes
on its own; ``checkpoints`` writes and reads what a training resumes from, whole or in parts.
"""
