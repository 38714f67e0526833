"""Tests of a base model before anything is trained: how it has to be run, and whether it can be used at all.

``rows`` compares batches of a few tokens with plain forward passes of single rows; ``choice`` makes a `ForwardPath` of
the results; ``bf16`` runs that path in bf16; ``tokens`` tests the tokenizer.
"""
