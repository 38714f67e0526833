"""The objects of one revision, and the route table of a model. Pure."""
