"""A global model that predicts from rows as they stand in a dataset.

This is what a registered model loads: MLflow's pyfunc flavour calls :func:`_load_pyfunc` with the
folder that :func:`save` wrote.  Rows pass :func:`folkmoot.features.encode_frame`, the very schema
the sites trained on.  Nothing is unpickled: the folder holds the wire format and JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from folkmoot.contract import Column, Contract
from folkmoot.params import Anonymisation
from folkmoot.wire import Artefact, decode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Predictor", "column_type", "example", "load", "output_columns", "save"]

_MODEL = "model.folkmoot"
_SCHEMA = "schema.json"
ColumnType = Literal["double", "long", "string", "boolean", "any"]


class Predictor:
    """Global model, contract and anonymisation together.

    Parameters
    ----------
    model : Artefact
        A global model (kind ``model``; meta ``kind`` linear or trees).
    contract : Contract
        Columns that rows have.
    anonymisation : Anonymisation
        Levels that quasi-identifiers are generalised to.
    """

    def __init__(self, model: Artefact, contract: Contract, anonymisation: Anonymisation) -> None:
        self.model = model
        self.contract = contract
        self.anonymisation = anonymisation
        self.kind: Literal["linear", "trees"] = model.meta["kind"]
        self._raw: Any = None

    def get_raw_model(self) -> Any:
        """The scikit-learn pipeline or XGBoost booster itself, over encoded features."""
        if self._raw is None:
            if self.kind == "linear":
                from folkmoot.models.linear import to_pipeline

                self._raw = to_pipeline(self.model)
            else:
                from folkmoot.models.trees import to_xgboost

                self._raw = to_xgboost(self.model)
        return self._raw

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Predict; O(n · d).

        Parameters
        ----------
        frame : pandas.DataFrame, n rows
            At least the contract's columns that reach training; one that may be missing may be
            absent altogether.  Other columns are ignored.

        Returns
        -------
        pandas.DataFrame, n rows
            ``prediction``: the class as the contract writes it (its public category) or a number;
            for classes also ``probability_<class>`` per class, in the contract's order.  Index as
            in ``frame``.

        Raises
        ------
        DataError
            ``data.column`` or ``data.contract``, naming column and number of rows.
        """
        import pandas as pd

        from folkmoot.features import encode_frame

        absent = [c.name for c in self.contract.inputs if c.missing and c.name not in frame.columns]
        frame = frame.assign(**dict.fromkeys(absent, np.nan))
        encoded = encode_frame(frame, self.contract, self.anonymisation, self.kind, np.float64)
        scores = self._scores(encoded)
        if self.contract.task == "regression":
            return pd.DataFrame({"prediction": scores}, index=frame.index)
        classes = label_values(self.contract)
        best = [classes[code] for code in scores.argmax(axis=1)]
        columns = {f"probability_{c}": scores[:, k] for k, c in enumerate(self.contract.classes)}
        return pd.DataFrame({"prediction": best, **columns}, index=frame.index)

    def _scores(self, encoded: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) for regression, else (n, K) probabilities in the contract's order of classes."""
        classes = len(self.contract.classes)
        raw = self.get_raw_model()
        if not len(encoded):
            return np.empty((0, classes) if classes else 0, np.float64)
        if self.kind == "trees":
            scores = np.asarray(_booster_scores(raw, encoded), np.float64)
        elif classes:
            scores = np.asarray(raw.predict_proba(encoded), np.float64)
        else:
            scores = np.asarray(raw.predict(encoded), np.float64)
        if classes == 2 and scores.ndim == 1:
            scores = np.column_stack([1.0 - scores, scores])
        return scores if classes else scores.reshape(len(encoded))


def save(folder: Path, model: bytes, contract: Contract, anonymisation: Anonymisation) -> None:
    """Write what :func:`load` reads.

    Parameters
    ----------
    folder : Path
        An existing folder.
    model : bytes
        The published global model, as it is: its SHA-256 is the model digest.
    contract, anonymisation : Contract, Anonymisation
        The run's own.
    """
    schema = {
        "contract": contract.model_dump(mode="json"),
        "anonymisation": anonymisation.model_dump(mode="json"),
    }
    (folder / _MODEL).write_bytes(model)
    (folder / _SCHEMA).write_text(json.dumps(schema, indent=1), encoding="utf-8")


def load(folder: Path) -> Predictor:
    """Read a folder that :func:`save` wrote.

    Raises
    ------
    ProtocolError
        Where the model is truncated or of another format.
    """
    schema = json.loads((folder / _SCHEMA).read_text(encoding="utf-8"))
    return Predictor(
        decode((folder / _MODEL).read_bytes(), kind="model"),
        Contract.model_validate(schema["contract"]),
        Anonymisation.model_validate(schema["anonymisation"]),
    )


def _load_pyfunc(path: str) -> Predictor:
    """What MLflow calls."""
    return load(Path(path))


def column_type(column: Column) -> ColumnType:
    """Type of a column in the model's signature.

    pandas turns whole numbers and booleans into another type once a value is missing, so those
    columns are ``any`` and left to the contract's own checks.
    """
    if column.type == "number":
        return "double"
    if column.type in {"integer", "boolean"}:
        if column.missing:
            return "any"
        return "long" if column.type == "integer" else "boolean"
    return "string"


def output_columns(contract: Contract) -> list[tuple[str, ColumnType]]:
    """Names and types of what :meth:`Predictor.predict` returns."""
    if contract.task == "regression":
        return [("prediction", "double")]
    kinds: dict[str, ColumnType] = {"integer": "long", "boolean": "boolean"}
    kind = kinds.get(contract.label.type, "string")
    return [("prediction", kind)] + [(f"probability_{name}", "double") for name in contract.classes]


def example(contract: Contract) -> pd.DataFrame:
    """One made-up row: midpoints of public bounds, first public categories; never data."""
    import pandas as pd

    return pd.DataFrame({column.name: [_middle(column)] for column in contract.inputs})


def label_values(contract: Contract) -> list[str] | list[int] | list[bool]:
    """Classes in the label's own type (the contract writes integers and booleans as text)."""
    names = list(contract.classes)
    if contract.label.type == "integer":
        return [int(name) for name in names]
    if contract.label.type == "boolean":
        return [name.lower() in {"true", "1"} for name in names]
    return names


def _middle(column: Column) -> float | int | bool | str:
    if column.type == "boolean":
        return False
    if column.categories:
        return int(column.categories[0]) if column.type == "integer" else column.categories[0]
    middle = sum(column.bounds or (0.0,)) / 2  # the contract demands bounds of inputs
    return int(middle) if column.type == "integer" else float(middle)


def _booster_scores(booster: Any, encoded: NDArray[Any]) -> Any:
    import xgboost

    rows = xgboost.DMatrix(
        encoded,
        feature_names=booster.feature_names,
        feature_types=booster.feature_types,
        enable_categorical=True,
    )
    return booster.predict(rows)
