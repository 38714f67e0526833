"""The program of a pod that verifies a revision: as a stage pod, with another order; see ``jobs.verify_revision``."""

from multitask_trainer.pod.unit import main

if __name__ == "__main__":
    raise SystemExit(main())
