"""MLflow's xgboost flavour of a tree model, beside the pyfunc one: ``mlflow.xgboost.load_model``."""

from __future__ import annotations

from pathlib import Path

from folkmoot.wire import decode

__all__ = ["add_flavour"]

FILE = "model.ubj"


def add_flavour(folder: Path, data: bytes) -> None:
    """Write the booster into a saved MLflow model and name it in ``MLmodel``; O(nodes).

    Parameters
    ----------
    folder : Path
        What ``mlflow.pyfunc.save_model`` wrote.
    data : bytes
        The published global model, of kind ``trees``.  The booster has its features' names and
        types, and predicts from encoded rows (:func:`folkmoot.features.encode_frame`).
    """
    import xgboost
    from mlflow.models import Model

    from folkmoot.models.trees import to_xgboost

    to_xgboost(decode(data, kind="model"), threads=1).save_model(folder / FILE)
    model = Model.load(str(folder))
    model.add_flavor(
        "xgboost",
        xgb_version=xgboost.__version__,
        data=FILE,
        model_class="xgboost.core.Booster",
        model_format="ubj",
        code=None,
    )
    model.save(str(folder / "MLmodel"))
