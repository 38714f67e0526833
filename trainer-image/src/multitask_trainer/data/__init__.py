"""A task's rows: read from any address, validated, normalised, and written in one format for every later stage.

``locations`` · ``file_names`` → ``listing`` → ``formats`` · ``hub`` → ``reading`` → ``row_validation`` →
``inspection``; ``rows`` is the format after ``prepare``, ``fingerprints`` tell whether data has changed.
"""
