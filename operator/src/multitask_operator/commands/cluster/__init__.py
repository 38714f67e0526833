"""What the commands do against a cluster: one look through the user's kubeconfig, then the operator's own decisions."""
