"""Scores, intervals, verdicts and routing: what decides which model answers a task. Mostly pure functions.

``text_metrics`` → ``metrics`` → ``interval`` → ``verdict`` → ``qualification`` → ``routing`` from the answers of
``scoring``; ``overlap`` finds test rows that were trained on. After the export: ``gateway_client`` and ``agreement``
compare the served answers with the evaluated ones, ``throughput`` and ``ledger`` count what is saved.
"""
