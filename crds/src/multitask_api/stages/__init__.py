"""The stage graph: what has to run for a spec, given what is already in storage."""

from multitask_api.stages.graph import build
from multitask_api.stages.groups import groups
from multitask_api.stages.nodes import Graph, Node, NodeState, Ref

__all__ = ["Graph", "Node", "NodeState", "Ref", "build", "groups"]
