"""How much a step on one task helps or hurts another, by gradients at the base, and the groups that follow.

``gradients`` and ``sketch`` give each task its vectors, ``estimate`` compares those of two, ``grouping`` decides.
"""
