"""The custom resource definitions, generated from the types of the resource."""

from multitask_api.crd.schema import as_yaml, definitions

__all__ = ["as_yaml", "definitions"]
