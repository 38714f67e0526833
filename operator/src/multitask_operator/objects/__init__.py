"""Kubernetes objects as plain data, built from a spec and what is to run; nothing is asked of a cluster. Pure."""
