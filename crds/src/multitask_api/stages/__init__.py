"""The stage graph: what has to run for a spec, given what is already in storage."""

from multitask_api.stages.graph import build
from multitask_api.stages.groups import groups
from multitask_api.stages.nodes import Graph, Key, Node, NodeState, Ref, flat

__all__ = ["Graph", "Key", "Node", "NodeState", "Ref", "build", "flat", "groups"]
