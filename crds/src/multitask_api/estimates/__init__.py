"""What training takes, from the shape of the base model: memory and floating-point operations. Pure.

It lies here because plans (the operator) and training (the trainer) both ask for it.
"""
