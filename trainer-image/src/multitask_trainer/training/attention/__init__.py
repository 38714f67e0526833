"""Attention over packed rows: by their lengths, at the cost of the sum of their squares, or with a mask.

``varlen`` is an attention function for transformers; ``choice`` tries it and says which of the two a training takes.
"""
