"""What runs in a stage pod: ``python -m multitask_trainer.pod``.

The operator writes this command into Jobs, also into those of older images: the name stays.
"""
