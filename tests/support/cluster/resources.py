"""Valid resources for tests: minimal ones, and ones that set every field."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def task(name: str, **more: Any) -> Object:
    """A classification task of two labels, its data in a claim."""
    data = {split: {"uri": f"pvc://data/{name}/{split}.jsonl"} for split in ("train", "validation", "test")}
    task = {"name": name, "type": "Classification", "labels": ["yes", "no"], "prompt": "{text}\nAnswer:", "data": data}
    return {key: value for key, value in (task | more).items() if value is not None}


def model(name: str = "desk", tasks: list[Object] | None = None, **spec: Any) -> Object:
    """A MultiTaskModel with what is required."""
    required = {
        "baseModel": {"uri": "builtin://tiny"},
        "storage": {"uri": f"pvc://models/{name}"},
        "tasks": [task("urgent")] if tasks is None else tasks,
    }
    return {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "MultiTaskModel",
        "metadata": {"name": name},
        "spec": required | spec,
    }


#: Names of ``training.podTemplates``.
POD_TEMPLATES = (
    *("cpu", "gpu", "resolve", "prepare", "base", "baseline", "filter", "gradients", "affinity", "check"),
    *("highResource", "mixture", "bundle"),
    *("evaluate", "export", "cleanUp"),
)


def full_model() -> Object:
    """A MultiTaskModel that says everything; one task of each kind, because some fields exclude each other."""
    classification = task(
        "urgent",
        taxonomy="Binary",
        language="en",
        metric="Accuracy",
        group="first",
        weight=2.5,
        baseline={"score": 0.9, "saturationSteps": 900},
    )
    classification["data"] |= {"labelField": "label", "targetField": "target", "maxBadRows": 3}
    generation = task(
        "reply",
        type="Generation",
        labels=None,
        prompt=None,
        promptFrom={"name": "prompts", "key": "reply"},
        generation={"maxNewTokens": 64, "stop": ["\n"]},
        group="second",
    )
    generation["data"] = {"train": {"uri": "s3://bucket/all.csv"}, "split": {"validation": 0.1, "test": 0.1, "seed": 1}}
    listed = task("intent", labels=None, labelsFrom={"name": "labels", "key": "intent"}, group="first")
    spec = {
        "baseModel": {"uri": "hf://org/base", "revision": "main", "chatTemplate": True, "ggufFile": "Q8/base.gguf"},
        "storage": {"uri": "s3://bucket/models", "retain": False, "keepRevisions": 2},
        "credentials": [{"secretRef": {"name": "hub-token"}}],
        "serviceAccountName": "trainer",
        "imagePullSecrets": [{"name": "registry"}],
        "pretraining": {
            "tasksText": True,
            "corpus": [{"uri": "s3://bucket/chats.jsonl.gz"}],
            "maxSteps": 2000,
            "learningRate": 1e-5,
            "refresh": "1",
        },
        "filtering": {"strategy": "Affinity", "maxGroups": 4, "rows": 512, "diagnosis": {"check": True}},
        "stages": {
            "totalSteps": 9000,
            "validations": 5,
            "baseline": {"enabled": True, "maxSteps": 4000, "seeds": 2, "learningRate": 1e-4},
            "highResource": {
                "enabled": True,
                "minSaturationSteps": 800,
                "maxSteps": 3000,
                "minSteps": 100,
                "seed": 1,
                "learningRate": 1e-4,
            },
            "mixture": {
                "start": "Previous",
                "temperature": 2.5,
                "sizeLimit": 50000,
                "maxSteps": 6000,
                "minSteps": 100,
                "seed": 1,
                "learningRate": 1e-4,
            },
        },
        "tuning": {
            "method": "CGCLoRA",
            "rank": 8,
            "alpha": 16.5,
            "useRslora": True,
            "dropout": 0.25,
            "targetModules": ["q_proj"],
            "quantization": "NF4",
            "commonExperts": 2,
            "specificExperts": 1,
            "expertRank": 2,
            "gate": "Task",
        },
        "qualification": {"threshold": 0.95, "rule": "LowerBound", "promote": "AllQualified"},
        "training": {
            "batchRows": 32,
            "learningRate": 0.001,
            "warmupSteps": 10,
            "maxLength": 256,
            "seed": 3,
            "evalEvery": 50,
            "minSteps": 100,
            "patience": 3,
            "precision": "fp32",
            "optimizer": "AdamW",
            "gradientCheckpointing": "Auto",
            "sharding": "Auto",
            "reportTo": ["TensorBoard", "MLflow"],
            "nodes": 2,
            "gpusPerNode": 8,
            "maxParallelJobs": 2,
            "resources": {"requests": {"cpu": "2"}},
            "queueName": "team-a",
            "podTemplate": {"spec": {"nodeSelector": {"pool": "gpu"}}},
            "podTemplates": {name: {"metadata": {"labels": {"of": name}}} for name in POD_TEMPLATES},
            "activeDeadlineSeconds": 86400,
        },
        "serving": {
            "replicas": 2,
            "resources": {"limits": {"memory": "4Gi"}},
            "rollout": {
                "steps": [5, 100],
                "minRequests": 10,
                "maxStepSeconds": 60,
                "maxRegressions": 0.02,
                "analysis": {
                    "interval": 10,
                    "initialDelay": 5,
                    "count": 2,
                    "minRequests": 20,
                    "maxStepSeconds": 90,
                    "failureLimit": 1,
                    "inconclusiveLimit": 5,
                    "consecutiveErrorLimit": 3,
                    "maxErrorRateIncrease": 0.02,
                    "maxLatencyRatio": 1.6,
                    "maxAccuracyDrop": 0.01,
                },
            },
            "approval": "Manual",
            "pinnedRevision": "0123abcd",
            "allowDowntime": True,
            "podTemplate": {"metadata": {"labels": {"team": "a"}}},
        },
        "suspend": True,
    }
    return model("full", [classification, generation, listed], **spec) | {"status": full_status()}


def full_status() -> Object:
    """A status with all its fields."""
    return {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "Training",
                "message": "3 of 9 stages are done",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-01-02T03:04:05Z",
            }
        ],
        "stage": "baseline",
        "progress": "3/9",
        "progressTime": "2026-01-02T03:04:05Z",
        "qualified": "1/2",
        "revision": "0123abcd",
        "approval": "0123abcd-4567",
        "serving": {
            "revision": "0123abcd",
            "replicas": 2,
            "readyReplicas": 1,
            "phase": "Progressing",
            "selector": "multitask.dev/model=full",
        },
        "stages": [
            {"name": "baseline", "total": 9, "done": 3, "running": 2, "failed": 0, "progress": "41 %"},
            {"name": "mixture", "total": 2, "done": 1, "skipped": 1, "skipReason": "urgent is alone in its group"},
        ],
        "tasks": [
            {
                "name": "urgent",
                "group": "first",
                "baseline": 0.95,
                "score": 0.94,
                "ratio": 0.9895,
                "verdict": "NotQualified",
                "servedBy": "baseline",
                "reason": "BelowThreshold",
            }
        ],
    }


def route(name: str = "desk", **spec: Any) -> Object:
    """A TaskRoute that says everything."""
    backend = {"service": "desk-0123abcd", "port": 8001, "weight": 100, "revision": "0123abcd"}
    routed = {
        "name": "urgent",
        "type": "Classification",
        "fields": ["text"],
        "labels": ["yes", "no"],
        "servedBy": "first",
        "window": "0123abcd/step-0",
        "backends": [backend],
    }
    return {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "TaskRoute",
        "metadata": {"name": name},
        "spec": {"namespace": "default", "model": name, "tasks": [routed]} | spec,
    }


def route_status() -> Object:
    """The status of a TaskRoute with all its fields."""
    now = "2026-01-02T03:04:05Z"
    row = {
        "name": "urgent",
        "phase": "Running",
        "passedOn": "traffic",
        "stepPassed": True,
        "measurements": {"successful": 1, "failed": 0, "inconclusive": 1, "consecutiveErrors": 0},
        "previous": {"requests": 100, "errors": 1, "p95Seconds": 0.2},
        "changedAnswers": {"compared": 200, "rightToWrong": 1, "wrongToRight": 2, "wrongToWrong": 0},
        "message": "20 requests",
    }
    rollout = {
        "revision": "4567cdef",
        "stable": "0123abcd",
        "phase": "Progressing",
        "step": 1,
        "weight": 50,
        "stepStarted": now,
        "message": "step 2 of 3",
        "tasks": [row],
        "measured": now,
        "finished": now,
        "order": "pause 4567cdef now",
        "retry": "89abcdef now",
        "approved": "0a1b2c3d",
        "givesWay": "PodByPod",
        "givesWayServers": 2,
        "givesWaySince": now,
    }
    rejected = {"revision": "89abcdef", "task": "urgent", "reason": "AnalysisFailed", "message": "slower", "time": now}
    gateway = {"name": "gateway-0", "observedGeneration": 3, "time": now}
    served = {"revision": "0123abcd", "tasks": ["urgent"]}
    return {"gateways": [gateway], "rollout": rollout, "rejected": [rejected], "served": [served]}
