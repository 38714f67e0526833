"""Short names of the model's tasks that an older model has: callers who use them reach that one. Pure."""

from __future__ import annotations

from multitask_api.serving_io.task_names import assign_names, short_names_in
from multitask_operator.formatting import cut, listed
from multitask_operator.reconciler.conditions import ConditionValue
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.settings import Settings

#: The condition, and its reason. It is there only while it is True, and no failure: longer names reach the tasks.
NAME_TAKEN = "NameTaken"
#: Bytes of the names in the message: they leave its advice, and room for other conditions in the status.
_NAMES_BYTES = 400
_SHOWN = 3


def names_taken(cluster: ClusterState, settings: Settings) -> ConditionValue | None:
    """Which names, and who has them; None if the tasks have all short names that their namespace may have."""
    assigned = assign_names(cluster.name_claims, short_names_in(settings.short_name_namespaces))
    own = [each for each in assigned if (each.claim.namespace, each.claim.model) == (cluster.namespace, cluster.name)]
    taken = [(each, name) for each in own for name in each.taken if name.owner]
    if not taken:
        return None
    owners = listed([f"{name.name} (it is {name.owner})" for _, name in taken], _SHOWN)
    longer = listed(list(dict.fromkeys(each.names[-1] for each, _ in taken if each.names)), _SHOWN)
    text = cut(f"Older models have the names {owners}", _NAMES_BYTES)
    return ConditionValue("True", NAME_TAKEN, f"{text}; call {cut(longer, _NAMES_BYTES)} instead, or rename the tasks.")
