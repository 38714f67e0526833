"""Decisions about a MultiTaskModel in a cluster: pure, from what was read to what to do."""
