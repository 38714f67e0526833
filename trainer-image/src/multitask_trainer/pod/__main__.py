"""The program of a stage pod; see ``unit``."""

from multitask_trainer.pod.unit import main

if __name__ == "__main__":
    raise SystemExit(main())
