"""One program a stage kind: ``python -m multitask_trainer.stages.<kind> --order ORDER.json``."""
