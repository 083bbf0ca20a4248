"""A version of a registered model: the logged model, its signature and requirements, and its tags.

A version carries its lineage in tags, so that questions about it need no other store:

=====================================  ==========================================================
tag                                    value
=====================================  ==========================================================
``folkmoot.run`` ``.federation``       training that made it
``folkmoot.model_digest``              SHA-256 of the published global model
``folkmoot.dataset.<site>``            fingerprints of the site's dataset versions, spaces between
``folkmoot.held_out``                  digest of the rows that ``folkmoot.metric.*`` were taken on
``folkmoot.metric.<name>``             metric on all sites' held-out rows
``folkmoot.private`` ``.epsilon``      whether differential privacy holds, and what was spent
``folkmoot.mechanism`` ``.unit``       of the privacy statement, which lies with the model as
``.relation`` ``.accountant``          ``privacy_statement.md`` and ``.json``
``folkmoot.seeded``                    noise from a seed: NOT PRIVATE
``folkmoot.verdict``                   why it did or did not become champion, and who decided
=====================================  ==========================================================
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folkmoot
from folkmoot.agreement import settled
from folkmoot.plan import RunContext
from folkmoot.wire import canonical_json, digest
from pipelines.coordinator import statement as privacy_statement
from pipelines.coordinator.mirror import Mirror
from pipelines.coordinator.mlflow_view import guarantee, summary
from pipelines.coordinator.published import Published
from pipelines.coordinator.xgboost_flavour import add_flavour

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

__all__ = ["CANDIDATE", "CHAMPION", "DATASET", "METRIC", "create_version", "requirements"]

CANDIDATE, CHAMPION = "candidate", "champion"
DATASET, METRIC = "folkmoot.dataset.", "folkmoot.metric."
#: What a loaded model needs, by kind; versions are those of this installation.
_REQUIREMENTS = {
    "linear": ("numpy", "pandas", "pydantic", "pyyaml", "scikit-learn", "scipy"),
    "trees": ("numpy", "pandas", "pydantic", "pyyaml", "xgboost", "scipy"),
}


def create_version(mirror: Mirror, found: Published, name: str) -> ModelVersion:
    """Log the model with the run, then make it a version; O(model size)."""
    from mlflow.exceptions import MlflowException

    context, client = mirror.context, mirror.client
    result = found.outcome(context.run)
    tags = _tags(context, found, result)
    claims = privacy_statement.statement(found, context)
    tags |= privacy_statement.tags(claims)
    logged = _logged(mirror, found, result, tags)
    try:
        client.create_registered_model(
            name,
            tags={"folkmoot.federation": context.federation},
            description=f"{result['kind']} models of federation {context.federation}: "
            f"`mlflow.pyfunc.load_model('models:/{name}@{CHAMPION}')`",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name,
        source=logged.artifact_location,
        run_id=mirror.run,
        tags=tags,
        description=f"{summary(found, context)}\n\n{privacy_statement.words(claims)}",
        model_id=logged.model_id,
    )


def _logged(
    mirror: Mirror, found: Published, result: Mapping[str, Any], tags: Mapping[str, str]
) -> LoggedModel:
    """The run's logged model, uploaded whole before the run refers to it."""
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput, Metric
    from mlflow.models import Model

    context, client = mirror.context, mirror.client
    run = client.get_run(mirror.run)
    if run.outputs and run.outputs.model_outputs:
        return client.get_logged_model(run.outputs.model_outputs[-1].model_id)
    from folkmoot.models import predictor

    data = context.store.get(context.key(result["model"]), result["model_digest"])
    logged = client.create_logged_model(
        mirror.experiment,
        name=result["kind"],
        source_run_id=mirror.run,
        tags=dict(tags),
        params=run.data.params,
        model_type=result["kind"],
    )
    claims = privacy_statement.statement(found, context)
    with tempfile.TemporaryDirectory() as temporary:
        folder, target = Path(temporary, "global_model"), Path(temporary, "model")
        folder.mkdir()
        predictor.save(folder, data, context.contract, settled(context).params.anonymisation)
        code = Path(temporary, "folkmoot")
        source = Path(folkmoot.__file__).parent
        shutil.copytree(source, code, ignore=shutil.ignore_patterns("__pycache__"))
        mlflow.pyfunc.save_model(
            path=str(target),
            loader_module="folkmoot.models.predictor",
            data_path=str(folder),
            code_paths=[str(code)],
            signature=_signature(context),
            input_example=predictor.example(context.contract),
            pip_requirements=requirements(result["kind"]),
            metadata={
                "folkmoot": {
                    **tags,
                    "guarantee": guarantee(context, result, found.epsilon),
                    "privacy_statement": claims,
                }
            },
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                model_uuid=logged.model_id,
                run_id=mirror.run,
                model_id=logged.model_id,
            ),
        )
        if result["kind"] == "trees":
            add_flavour(target, data)
        text = json.dumps(claims, indent=1, sort_keys=True)
        (target / "privacy_statement.json").write_text(text, encoding="utf-8")
        words = privacy_statement.words(claims)
        (target / "privacy_statement.md").write_text(words, encoding="utf-8")
        client.log_model_artifacts(logged.model_id, str(target))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(mirror.run, [LoggedModelOutput(logged.model_id, step=result["rounds"])])
    # The same points again, now of the model too: MLflow's page of the model shows them.
    points = [
        Metric(m.key, m.value, m.timestamp, m.step, model_id=logged.model_id, run_id=mirror.run)
        for key in result["metrics"].get("overall", {})
        for m in client.get_metric_history(mirror.run, key)
        if m.step == result["rounds"] and m.model_id is None
    ]
    client.log_batch(mirror.run, metrics=points)
    return logged


def requirements(kind: str) -> list[str]:
    """Pinned packages that a model of a kind needs to predict; never inferred."""
    names = (*_REQUIREMENTS[kind], "mlflow")
    return [f"{name}=={importlib.metadata.version(name)}" for name in names]


def _signature(context: RunContext) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    from folkmoot.models.predictor import column_type, output_columns

    def spec(name: str, kind: str, required: bool = True) -> ColSpec:
        if kind == "any":
            return ColSpec(AnyType(), name, required=False)
        return ColSpec(kind, name, required=required)

    inputs = [spec(c.name, column_type(c), not c.missing) for c in context.contract.inputs]
    outputs = [spec(name, kind) for name, kind in output_columns(context.contract)]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def _tags(context: RunContext, found: Published, result: Mapping[str, Any]) -> dict[str, str]:
    params, contract = context.params, context.contract
    held_out = {
        "datasets": result["datasets"],
        "contract": contract.digest(),
        "holdout": params.data.holdout.model_dump(mode="json"),
        "sites": sorted(result["metrics"].get("sites", {})),
    }
    tags = {
        "folkmoot.version": folkmoot.__version__,
        "folkmoot.run": context.run,
        "folkmoot.federation": context.federation,
        "folkmoot.kind": result["kind"],
        "folkmoot.strategy": result["strategy"],
        "folkmoot.rounds": str(result["rounds"]),
        "folkmoot.model_digest": result["model_digest"],
        "folkmoot.params": params.digest(),
        "folkmoot.contract": f"{contract.name} {contract.version} {contract.digest()}",
        "folkmoot.held_out": digest(canonical_json(held_out)),
        "folkmoot.private": json.dumps(result["private"]),
        "folkmoot.seeded": json.dumps(found.epsilon is not None and not result["private"]),
    }
    if found.epsilon is not None:
        tags |= {
            "folkmoot.epsilon": repr(found.epsilon),
            "folkmoot.delta": repr(params.privacy.delta),
        }
    tags |= {DATASET + site: " ".join(prints) for site, prints in found.datasets.items()}
    overall = result["metrics"].get("overall", {})
    return tags | {METRIC + key: repr(float(value)) for key, value in overall.items()}
