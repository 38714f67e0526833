"""The stage graph: what has to run for a spec, given the results that are in storage."""

from multitask_api.stages.graph import build
from multitask_api.stages.groups import groups
from multitask_api.stages.nodes import ArtifactKey, Graph, Node, NodeState, Ref, Start, artifact_filename

__all__ = ["ArtifactKey", "Graph", "Node", "NodeState", "Ref", "Start", "artifact_filename", "build", "groups"]
