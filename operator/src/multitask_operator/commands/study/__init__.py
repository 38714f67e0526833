"""What ``mtm study`` does: its file, its plan, its run."""
