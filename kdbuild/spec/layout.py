"""Where everything built lies. These paths are the interface of `dvc get` and `dvc import` and do not change."""

from __future__ import annotations

ARTIFACTS = "artifacts"
STRUCTURE = f"{ARTIFACTS}/structure.json"
MODELS = f"{ARTIFACTS}/models/resolved.json"


def resolved(spec: str) -> str:
    """Return the path of a spec's resolved.json."""
    return f"{ARTIFACTS}/{spec}/resolved.json"


def out(spec: str, part: str, name: str) -> str:
    """Return the path of a directory output; `part` is a phase, or `seeds`, `init`, `evaluate`."""
    return f"{ARTIFACTS}/{spec}/{part}/{name}"


def facts(spec: str, phase: str, step: str) -> str:
    """Return the path of the metrics file of a phase's step."""
    return f"{ARTIFACTS}/{spec}/{phase}/{step}.json"


def metrics(spec: str) -> str:
    """Return the path of a spec's metrics.json."""
    return f"{ARTIFACTS}/{spec}/metrics.json"


def metric_file(metric: str) -> str:
    """Return the file inside `evaluate/plots/` that compares the models by one metric."""
    return f"metric-{metric}.json"


def report(spec: str) -> str:
    """Return the path of a spec's report."""
    return f"{ARTIFACTS}/{spec}/report.html"


def weights(model: str) -> str:
    """Return the folder a model is fetched into."""
    return f"{ARTIFACTS}/models/{model}/weights"


def stage_name(spec: str, step: str, phase: str | None = None) -> str:
    """Return the name of a stage; `_` only separates."""
    return "_".join(part for part in (spec, phase, step) if part)
