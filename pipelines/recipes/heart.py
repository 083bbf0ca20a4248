"""Heart Disease of four hospitals, as FLamby's Fed-Heart-Disease (Ogier du Terrail et al. 2022).

FLamby's protocol: slope, ca and thal are dropped, then rows with a missing value (740 stay); the
label is ``num > 0``; per hospital 66 % of the rows are for training, drawn with
``train_test_split(random_state=43)`` and stratified where each class has more than two rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from folkmoot.contract import Contract
from folkmoot.errors import DataError
from folkmoot.params import Data
from pipelines.recipes.rows import FrameRows
from pipelines.recipes.sources import source_files

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FILES", "rows"]

_BASE = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
_MD5 = {
    "cleveland": "2d91a8ff69cfd9616aa47b59d6f843db",
    "hungarian": "22e96bee155b5973568101c93b3705f6",
    "switzerland": "9a87f7577310b3917730d06ba9349e20",
    "va": "4249d03ca7711e84f4444768c9426170",
}
#: URL and md5 (those of FLamby's downloader) by file name.
FILES = {
    f"processed.{name}.data": (f"{_BASE}processed.{name}.data", md5) for name, md5 in _MD5.items()
}
_COLUMNS = [
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
]


def rows(data: Data, contract: Contract) -> FrameRows:
    """The 740 rows, with the column ``hospital`` for the natural partition."""
    import pandas as pd

    paths = source_files(data, FILES)
    hospitals = [_hospital(paths[f"processed.{name}.data"], name) for name in _MD5]
    return FrameRows(pd.concat(hospitals, ignore_index=True))


def _hospital(path: Path, name: str) -> pd.DataFrame:
    import pandas as pd
    from sklearn.model_selection import train_test_split

    try:
        frame = pd.read_csv(path, header=None, names=_COLUMNS, na_values="?", dtype="float64")
    except (ValueError, OSError, pd.errors.ParserError):
        raise DataError(
            "data.unreadable",
            f"{path} is not a file of the Heart Disease dataset.",
            "Get the processed files from doi 10.24432/C52P4X.",
        ) from None
    frame = frame.drop(columns=["slope", "ca", "thal"]).dropna().reset_index(drop=True)
    disease = frame.pop("num") > 0
    frame["age"] = frame["age"].astype("int64")
    frame["sex"] = frame["sex"].map({0.0: "female", 1.0: "male"})
    for column in ("cp", "restecg"):
        frame[column] = frame[column].astype("int64").astype(str)
    for column in ("fbs", "exang"):
        frame[column] = frame[column] > 0
    frame["disease"] = disease.map({False: "absence", True: "presence"})
    counts = disease.value_counts()
    train, _ = train_test_split(
        range(len(frame)),
        train_size=0.66,
        test_size=0.34,
        random_state=43,
        stratify=disease if len(counts) > 1 and counts.min() > 2 else None,
    )
    frame["split"] = "test"
    frame.loc[list(train), "split"] = "train"
    frame["hospital"] = name
    return frame
