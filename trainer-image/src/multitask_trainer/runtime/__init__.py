"""How a stage runs, as one process or several, on one machine or in a pod.

A stage program passes its work to `runner.main` with an order file; a pod passes its orders to `runner.run_stage`. Both
go the same way: the order becomes a `context.StageContext`, the work turns it into a `context.StageOutcome`, and the
runner publishes the artifact with its manifest. Lowest first: ``progress`` · ``distributed`` · ``balance`` →
``context`` → ``failures`` · ``collectives`` · ``tracking`` → ``runner``.
"""
