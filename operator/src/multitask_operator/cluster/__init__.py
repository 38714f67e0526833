"""Reading from and writing to a Kubernetes API server. Nothing in here decides."""
