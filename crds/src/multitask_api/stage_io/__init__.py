"""The data between an executor and a stage program: orders, parameters, progress, results, manifests."""
