"""Recipes: public or synthetic tables, and how their rows are dealt to the sites of a simulation.

A recipe is a contract and rows.  The contract is public and light to read; the rows are only
touched where sites are made (``pipelines.simulation``) or a study asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from folkmoot.contract import Contract, load_contract
from folkmoot.errors import ConfigError
from folkmoot.params import Data, Params

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.recipes.rows import Rows

__all__ = ["RECIPES", "Recipe", "contract_of", "load", "open_rows", "partition"]

_CONTRACTS = "contracts"


@dataclass(frozen=True)
class Recipe:
    """What ``folkmoot data list`` shows, and where the rows come from."""

    name: str
    summary: str
    rows: str
    task: str
    source: str
    module: str

    def opener(self) -> Callable[[Data, Contract], Rows]:
        """Function ``rows(data, contract)`` of the recipe's module."""
        opener: Callable[[Data, Contract], Rows] = import_module(self.module).rows
        return opener


_HERE = "pipelines.recipes"
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "breast_cancer",
            "Tumours, malignant or benign, from 30 measurements of cell nuclei",
            "569",
            "binary",
            "bundled with scikit-learn",
            f"{_HERE}.bundled",
        ),
        Recipe(
            "diabetes",
            "Disease progression after one year from ten baseline values",
            "442",
            "regression",
            "bundled with scikit-learn",
            f"{_HERE}.bundled",
        ),
        Recipe(
            "heart",
            "Heart disease at four hospitals, split as FLamby's (natural partition: hospital)",
            "740",
            "binary",
            "data.path, FOLKMOOT_DATA/heart or download",
            f"{_HERE}.heart",
        ),
        Recipe(
            "adult",
            "Income above 50,000 USD from a census, with quasi-identifiers and hierarchies",
            "48,842",
            "binary",
            "data.path, FOLKMOOT_DATA/adult or download",
            f"{_HERE}.adult",
        ),
        Recipe(
            "synthetic",
            "Any size, with identifiers, quasi-identifiers and a sensitive column",
            "any",
            "binary",
            "drawn: data.rows, data.columns, data.seed",
            f"{_HERE}.synthetic",
        ),
        Recipe(
            "csv",
            "Your own file: data.path and data.contract",
            "yours",
            "yours",
            "data.path",
            f"{_HERE}.files",
        ),
        Recipe(
            "parquet",
            "Your own file: data.path and data.contract",
            "yours",
            "yours",
            "data.path",
            f"{_HERE}.files",
        ),
    )
}


def contract_of(data: Data) -> Contract:
    """The data contract that ``params.data`` asks for; reads YAML only.

    Parameters
    ----------
    data : Data
        ``params.data``.

    Returns
    -------
    Contract
        From ``data.contract``, else the recipe's own.

    Raises
    ------
    ConfigError
        For a contract that is missing or faulty.
    """
    if data.contract is not None:
        return load_contract(data.contract)
    if data.recipe == "synthetic":
        from pipelines.recipes.synthetic import contract

        return contract(data.columns)
    import folkmoot

    return load_contract(Path(folkmoot.__file__).parent / _CONTRACTS / f"{data.recipe}.yaml")


def open_rows(data: Data) -> tuple[Rows, Contract]:
    """Rows of a recipe, to be read in batches, and their contract.

    Raises
    ------
    ConfigError, DataError
        For a source that is missing, cannot be downloaded or read, or lacks a column.
    """
    contract = contract_of(data)
    return RECIPES[str(data.recipe)].opener()(data, contract), contract


def load(recipe: str, data: Data) -> tuple[pd.DataFrame, Contract]:
    """All rows of a recipe as a DataFrame; O(rows) memory.

    Parameters
    ----------
    recipe : str
        A key of :data:`RECIPES`.
    data : Data
        ``params.data``; its own ``recipe`` is overridden.

    Returns
    -------
    frame : pandas.DataFrame
        The contract's columns, and those that only a natural partition uses.
    contract : Contract
    """
    if recipe not in RECIPES:
        raise ConfigError(
            "config.invalid",
            f"There is no recipe {recipe}.",
            f"Choose one of: {', '.join(RECIPES)}.",
        )
    rows, contract = open_rows(data.model_copy(update={"recipe": recipe}))
    return rows.frame(), contract


def partition(frame: pd.DataFrame, contract: Contract, params: Params) -> dict[str, pd.DataFrame]:
    """Deal the rows of ``frame`` to the sites of ``params``.

    Returns
    -------
    dict of str to DataFrame
        Per site its rows in the order of ``frame``, with the contract's columns alone.

    Raises
    ------
    ConfigError, DataError
        As :func:`pipelines.recipes.partitions.assign`.
    """
    from pipelines.recipes.partitions import assign
    from pipelines.recipes.rows import FrameRows

    site = assign(FrameRows(frame), contract, params)
    columns = [column.name for column in contract.columns if column.name in frame.columns]
    return {
        name: frame.loc[site == i, columns].reset_index(drop=True)
        for i, name in enumerate(params.federation.members)
    }
