"""Reading from and writing to a Kubernetes API server. What is written is decided in `multitask_operator.reconciler`;
`observe` decides only what is read: Events, for instance, only about Jobs and pods that are stuck."""
