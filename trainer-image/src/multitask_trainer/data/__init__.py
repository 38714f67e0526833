"""A task's rows: read from wherever they are, checked, normalised, and kept in one form for every later stage."""
