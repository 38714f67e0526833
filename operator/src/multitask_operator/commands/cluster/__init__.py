"""The commands that read a cluster, through the user's kubeconfig: they show what the operator would decide there."""
