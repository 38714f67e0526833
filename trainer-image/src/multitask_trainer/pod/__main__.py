"""The program of a stage pod; see ``unit``."""

from multitask_trainer.pod.unit import main

raise SystemExit(main())
