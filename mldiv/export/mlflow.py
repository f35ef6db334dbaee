"""Write a study for MLflow: an experiment in an SQLite store, a run for each trial, the arm as a tag, files as artifacts."""

import os
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from mldiv.export.runs import Exported, Run
from mldiv.records.checked_files import RecordError

#: Tags by which a later export finds what it wrote, and sees whether that is still so.
TRIAL, DIGEST = "mldiv.trial", "mldiv.digest"
#: What the store takes at once.
METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100
ENDS = {"finished": "FINISHED", "stopped": "FINISHED", "running": "RUNNING"}


def export(study: Exported, out: Path) -> str:
    """Write every run that is not there as it is; return how to look at it. A run that has changed since is replaced.

    Raises: RecordError for a folder that its store's URL cannot name.
    """
    if odd := sorted({"%", "?"} & set(str(out.resolve()))):
        raise RecordError(
            f"{out.resolve()}: MLflow cannot write into a folder with {odd[0]} in its path; name another by --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    place = f"sqlite:///{out.resolve() / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=place)
    known = client.get_experiment_by_name(study.header.name)
    experiment = known.experiment_id if known else client.create_experiment(
        study.header.name, artifact_location=(out.resolve() / "artifacts").as_uri()
    )  # fmt: skip
    there = _written(client, experiment)
    for old in (old for trial in study.gone for old, _ in there.get(trial, [])):
        client.delete_run(old)
    for run in study.runs:
        tags = {"arm": run.arm, "seed": str(run.seed), "phase": run.phase, "status": run.status, "roles": "; ".join(run.roles)}
        tags |= {"reason": run.reason[:5000], "notes": "\n".join(run.notes)[:5000], TRIAL: run.trial}
        if _begin(client, there, run.trial, run.digest):
            _write(client, experiment, run, {name: value for name, value in tags.items() if value})
    if study.files and _begin(client, there, study.run, study.digest):
        made = client.create_run(experiment, run_name="study", start_time=0, tags={TRIAL: study.run}).info.run_id
        for path in study.files:
            client.log_artifact(made, str(path))
        client.set_tag(made, DIGEST, study.digest)
        client.set_terminated(made)
    return f"mlflow ui --backend-store-uri {place}"


def _written(client: MlflowClient, experiment: str) -> dict[str, list[tuple[str, str]]]:
    """Return what earlier exports wrote: by trial, the runs' ids and digests."""
    found: dict[str, list[tuple[str, str]]] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            if TRIAL in run.data.tags:
                found.setdefault(run.data.tags[TRIAL], []).append((run.info.run_id, run.data.tags.get(DIGEST, "")))
        token = page.token
        if not token:
            return found


def _begin(client: MlflowClient, there: dict[str, list[tuple[str, str]]], trial: str, digest: str) -> bool:
    """Return whether a run is to be written; what an earlier export wrote of it otherwise, or not to its end, is deleted."""
    if [known for _, known in there.get(trial, [])] == [digest]:
        return False
    for old, _ in there.get(trial, []):
        client.delete_run(old)
    return True


def _write(client: MlflowClient, experiment: str, run: Run, tags: dict[str, str]) -> None:
    ended = int(1000 * run.last.ended)
    began = int(1000 * run.epochs[0].ended) if run.epochs else ended
    made = client.create_run(experiment, run_name=run.name, start_time=began, tags=tags).info.run_id
    params = [Param(name, str(value)) for name, value in run.settings.items()]
    for start in range(0, len(params), PARAMS_AT_ONCE):
        client.log_batch(made, params=params[start : start + PARAMS_AT_ONCE])
    metrics = [
        Metric(_name(name), value, int(1000 * line.ended), line.epoch)
        for line in run.epochs for name, value in line.values.items()
    ] + [Metric(_name(name), value, ended, run.last.epoch) for name, value in run.scores.items()]  # fmt: skip
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        client.log_batch(made, metrics=metrics[start : start + METRICS_AT_ONCE])
    client.set_terminated(made, ENDS.get(run.status, "FAILED"), ended)
    client.log_batch(made, tags=[RunTag(DIGEST, run.digest)])


def _name(name: str) -> str:
    """Return a metric's name of the signs that MLflow takes, another one for another: other signs are codes."""
    return "".join(sign if sign.isalnum() or sign in "_-. /" else f":{ord(sign):x}:" for sign in name)
