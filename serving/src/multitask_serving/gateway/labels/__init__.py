"""Labels that are reported after the answer: what a request id says, and which reports count."""
