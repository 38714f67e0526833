"""Runs plans on this machine: stage programs as processes, artifacts in a work folder."""
