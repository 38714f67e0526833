"""Scores, intervals, verdicts, routing: what decides which model answers a task. Mostly pure functions."""
