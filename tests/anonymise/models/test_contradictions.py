"""Bad combinations of models: one clear error each, with the remedy, before anything is written."""

import pytest

from folkmoot.errors import ConfigError, DataError
from site_tasks.anonymise.models import (
    AlphaK,
    BetaLikeness,
    DeltaDisclosure,
    DeltaPresence,
    DistinctLDiversity,
    EntropyLDiversity,
    KAnonymity,
    KMap,
    RecursiveCLDiversity,
    Table,
    TCloseness,
    check,
)

TABLE = Table(12, "disease", (6, 4, 2), ("age",), population=40)


@pytest.mark.parametrize(
    "model",
    [
        KAnonymity(0),
        DistinctLDiversity(0),
        EntropyLDiversity(0.5),
        RecursiveCLDiversity(0, 2),
        TCloseness(1.5),
        TCloseness(float("nan")),
        TCloseness(0.2, "hierarchical"),
        TCloseness(0.2, "hierarchical", ((0, 0, 1), (0, 1, 0))),
        TCloseness(0.2, "hierarchical", ((0, 0, 1), (0, 0))),
        AlphaK(0, 2),
        BetaLikeness(0),
        DeltaDisclosure(-1),
        DeltaPresence(0.6, 0.5),
    ],
    ids=str,
)
def test_parameters_out_of_range(model):
    with pytest.raises(ConfigError) as caught:
        check([model])
    assert caught.value.code == "config.invalid"
    assert str(model) in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("models", "table", "error", "code", "says"),
    [
        ([KAnonymity(13)], TABLE, DataError, "data.too-few-rows", "12 rows, fewer than k = 13"),
        ([AlphaK(0.9, 13)], TABLE, DataError, "data.too-few-rows", "fewer than k = 13"),
        ([TCloseness(0.2)], Table(12), ConfigError, "config.invalid", "no column"),
        ([KMap(3)], Table(12), ConfigError, "config.invalid", "no population table"),
        ([KMap(41)], TABLE, DataError, "data.too-few-rows", "40 people"),
        (
            [KMap(3)],
            Table(12, quasi_identifiers=("age",), population=8),
            DataError,
            "data.privacy-model",
            "8 people only",
        ),
        ([DeltaPresence(0.4, 1)], TABLE, DataError, "data.privacy-model", "12 of 40"),
        ([DistinctLDiversity(4)], TABLE, DataError, "data.privacy-model", "3 values"),
        ([EntropyLDiversity(2.9)], TABLE, DataError, "data.privacy-model", "l = 2.749 only"),
        ([RecursiveCLDiversity(1, 2)], TABLE, DataError, "data.privacy-model", "too frequent"),
        ([RecursiveCLDiversity(9, 4)], TABLE, DataError, "data.privacy-model", "3 values"),
        ([AlphaK(0.4, 2)], TABLE, DataError, "data.privacy-model", "more frequent"),
        ([KAnonymity(3), KAnonymity(5)], None, ConfigError, "config.invalid", "twice"),
        ([KAnonymity(3), AlphaK(0.5, 5)], None, ConfigError, "config.invalid", "different sizes"),
        (
            [DistinctLDiversity(2)],
            Table(12, "disease", (6, 6)),
            ConfigError,
            "config.invalid",
            "no column of the contract is a quasi-identifier",
        ),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else None,
)
def test_contradictions(models, table, error, code, says):
    with pytest.raises(error) as caught:
        check(models, table, site="north")
    assert caught.value.code == code
    assert says in str(caught.value)
    assert caught.value.site == "north"
    assert caught.value.remedy


def test_models_that_go_together_pass():
    check(
        [
            KAnonymity(3),
            DistinctLDiversity(3),
            EntropyLDiversity(2.7),
            RecursiveCLDiversity(1.5, 2),
            TCloseness(0),
            TCloseness(0.2, "ordered"),
            AlphaK(0.5, 3),
            BetaLikeness(0.5),
            DeltaDisclosure(1),
            KMap(3),
            DeltaPresence(0, 0.9),
        ],
        TABLE,
    )
