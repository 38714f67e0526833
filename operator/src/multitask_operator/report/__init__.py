"""``report.json`` from manifests (``build``, pure) and one HTML page from that (``html``)."""
