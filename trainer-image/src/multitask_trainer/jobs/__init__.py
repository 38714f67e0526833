"""What pods and `mtm` run that is no stage of the graph: the row checks, the comparison of a revision, deletion."""
