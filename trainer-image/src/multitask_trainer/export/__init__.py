"""What is served: weights in their final dtype, the bundle of all tasks, routes and golden requests.

``weights`` → ``bundle`` (all mixtures) → ``routed_bundle`` (only what answers a task); ``serving_files``.
"""
