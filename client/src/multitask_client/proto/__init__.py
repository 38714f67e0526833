"""``multitask.v1.TaskGateway``: the protobuf source and the modules generated from it by ``make generate``."""
