"""Files and artifacts, on a disk or in any store that fsspec reaches.

``uris`` (one file or folder, and what to do about a store's errors) · ``files`` (local files) → ``artifacts`` (results,
published whole or not at all) → ``result_index`` (the results of a model). ``disk_space`` explains a full disk.
"""
