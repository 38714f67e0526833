"""The program of a server's pod; see ``program``."""

from multitask_serving.pod.program import main

if __name__ == "__main__":
    raise SystemExit(main())
