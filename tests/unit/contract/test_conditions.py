"""The condition types and reasons that the operator writes: alerts, scripts and `kubectl wait` compare them.

The lists are those of version 0.1.0. They are compared with the source, so a reason that no test reaches counts too.
"""

from __future__ import annotations

from pathlib import Path

import multitask_operator
from support.source_words import upper_camel_literals

TYPES = {
    "Ready",
    "Progressing",
    "Consolidated",
    "Trained",
    "Complete",
    "Failed",
    "Reconciling",
    "Stalled",
    "ConfigurationWarning",
    "NameTaken",  # it has no other reason than its type
}
WARNINGS = {"NoGangScheduling", "GpuNodesForAllStages", "DeviceClaimsNotUsed"}
READY = {"NotTrained", "Trained", "InvalidSpec"}
CONSOLIDATED = {"NotJudged", "TasksOutsideMixture", "AllQualified"}
PROGRESSING = {"Suspended", "StagesRunning", "StageFailed", "Complete", "Blocked", "Resolving"}
#: Of Ready, and of Progressing too unless something else goes on.
BLOCKERS = {
    *("NotScheduled", "NodeLost", "NoProgress", "Evicted"),
    *("ClaimDeleted", "ClaimLost", "ClaimMissing", "DataNotFound", "Gated", "ImageNotPulled", "NoGPUFree"),
    *("NotDeleted", "PodNotStarted", "PodRefused", "PodWarning", "Queued", "QuotaExceeded", "ResolveFailed"),
    *("ReadRefused", "Retrying", "SecretMissing", "StorageNotShared", "Unschedulable", "WriteRefused"),
}
#: Of Ready, once there is a revision.
SERVING = {
    *("Serving", "ServersStarting", "ScaledToZero", "NoGateway", "NoGatewayPods", "GatewaysBehind"),
    *("FetchFailed", "ServerFailed", "ServerOutOfMemory", "ServersNotReady", "ServingImageMissing"),
    *("VerificationNotPossible", "AllowedDowntime"),
}
#: Of Ready and Progressing while traffic moves, among others that `rollout` has.
ROLLOUTS = {
    *("RolloutStarted", "RolloutPaused", "RolloutSuccessful", "RolloutFailed", "RolloutAborted", "ApprovalNeeded"),
}
DELETION = {"CleaningUp"}
FOR_PROGRAMS = {"NotPromoted"}
EVENTS_ALONE = {"PodHeld", "CleanedUp", "CleanUpFailed", "CleanUpSkipped", "GarbageCollected", "GarbageNotCollected"}
#: How an order of `mtm gc` ended, in its ConfigMap.
ANSWERS = {"Done", "Refused"}
REASONS = (
    READY
    | CONSOLIDATED
    | PROGRESSING
    | BLOCKERS
    | SERVING
    | ROLLOUTS
    | DELETION
    | FOR_PROGRAMS
    | EVENTS_ALONE
    | WARNINGS
)
#: Values of the Stage column that are neither a stage kind nor a reason.
STAGES = {"Pending", "Failed", "RollingOut"}

#: Other words of the API that decisions compare or write.
KUBERNETES = {
    *("True", "False", "Unknown", "Normal", "Warning"),
    *("Background", "Foreground", "Orphan"),  # propagation policies of a deletion
    *("Job", "Pod", "Deployment", "Running", "Succeeded", "Lost", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"),
    *("DisruptionTarget", "OOMKilled", "PodScheduled", "SchedulingGated", "ContainersReady"),
    *("CreateContainerConfigError", "CreateContainerError", "ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff"),
    *("InvalidImageName", "RunContainerError", "ReplicaFailure", "ProgressDeadlineExceeded"),
}
OURS = {
    *("None", "MultiTaskModel", "Full", "Generation", "Auto", "Never", "Qualified", "UserError", "Retryable", "Fault"),
    *("LoRA", "NF4", "AdamW8bit", "Always"),  # values of fields, which plans advise
}


def test_no_type_or_reason_is_renamed_and_none_is_added_unseen():
    package = Path(multitask_operator.__file__).parent
    words = upper_camel_literals(package / part for part in ("planner", "reconciler"))

    assert words == TYPES | REASONS | ANSWERS | STAGES | KUBERNETES | OURS
