"""What the operator reads from a cluster and writes to it.

What is written is decided in `multitask_operator.reconciler`; `observe` decides only what is read: Events, for
instance, only about Jobs and pods that are stuck.
"""
