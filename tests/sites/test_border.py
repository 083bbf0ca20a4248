"""Nothing but a code and a safe sentence crosses the border of a site."""

from __future__ import annotations

import errno
import stat
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from folkmoot.errors import DataError, FolkmootError, RoundError, TransientError
from folkmoot.exchange import ExchangeStore
from folkmoot.identity import Roster
from folkmoot.params import parse_params
from folkmoot.plan import RunContext, Step
from pipelines.recipes import contract_of
from site_tasks.border import border
from site_tasks.home import SiteHome

SECRET = "patient 4711"
STEP = Step("round-001/train/clinic", "site.train_linear", "clinic", 1)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ws")
    SiteHome.create(path / "sites" / "clinic", "clinic")
    return path


@pytest.fixture
def context(workspace: Path) -> RunContext:
    params = parse_params({})
    store = ExchangeStore(workspace / "exchange")
    return RunContext("run-1", params, contract_of(params.data), Roster({}), store, workspace)


def cross(context: RunContext, body: Callable[[], object]) -> FolkmootError:
    with pytest.raises(FolkmootError) as caught, border(STEP, context):
        body()
    return caught.value


def raising(error: Exception) -> Callable[[], None]:
    def body() -> None:
        held = SECRET  # a local, as a row would be
        raise error if held else AssertionError

    return body


def whole(error: BaseException) -> str:
    """Everything that a host could print or store of an exception."""
    texts = [repr(error), str(error), "".join(traceback.format_exception(error))]
    for linked in (error.__cause__, error.__context__):
        if linked is not None:
            texts.append(whole(linked))
    return "\n".join(texts)


def test_an_unexpected_error_becomes_a_safe_sentence(context: RunContext) -> None:
    error = cross(context, raising(KeyError(SECRET)))
    assert isinstance(error, RoundError)
    assert error.code == "round.site-failed"
    assert error.site == "clinic"
    assert STEP.name in error.message
    assert SECRET not in whole(error)
    assert "private/site.log" in error.remedy


def test_the_traceback_stays_in_the_private_log(context: RunContext, workspace: Path) -> None:
    cross(context, raising(ValueError(SECRET)))
    log = SiteHome.find("clinic", workspace).log
    assert SECRET in log.read_text()
    assert "Traceback" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_chained_exceptions_are_cut(context: RunContext) -> None:
    def body() -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise DataError("data.contract", "Rows break the contract.", "Mend them.") from error

    error = cross(context, body)
    assert (error.code, error.site) == ("data.contract", "clinic")
    assert error.message == "Rows break the contract."
    assert SECRET not in whole(error)


def test_the_frames_of_the_step_do_not_travel(context: RunContext) -> None:
    error = cross(context, raising(DataError("data.contract", "Broken.", "Mend.")))
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert "body" not in frames


def test_a_site_that_is_named_already_stays(context: RunContext) -> None:
    error = cross(context, raising(DataError("data.contract", "Broken.", "Mend.", site="other")))
    assert error.site == "other"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_may_be_tried_again(context: RunContext, number: int) -> None:
    error = cross(context, raising(OSError(number, "full", SECRET)))
    assert isinstance(error, TransientError)
    assert error.code == "transient.disk-full"
    assert error.retryable
    assert SECRET not in whole(error)


def test_running_out_of_memory_says_so(context: RunContext) -> None:
    error = cross(context, raising(MemoryError(SECRET)))
    assert "memory" in error.message
    assert SECRET not in whole(error)


def test_a_log_that_cannot_be_written_changes_nothing(context: RunContext, tmp_path: Path) -> None:
    lost = RunContext(
        context.run, context.params, context.contract, context.roster, context.store, tmp_path
    )
    assert cross(lost, raising(ValueError(SECRET))).code == "round.site-failed"


def test_interrupts_pass(context: RunContext) -> None:
    with pytest.raises(KeyboardInterrupt), border(STEP, context):
        raise KeyboardInterrupt


def test_a_good_step_leaves_no_trace(context: RunContext, workspace: Path) -> None:
    log = SiteHome.find("clinic", workspace).log
    log.unlink(missing_ok=True)
    with border(STEP, context):
        pass
    assert not log.exists()


def test_what_is_the_sites_own_stays_in_its_log(context: RunContext) -> None:
    with pytest.raises(DataError) as caught, border(STEP, context):
        raise DataError("data.column", "column Zyx", "Mend it.", outside="1 column")
    assert caught.value.message == caught.value.crossing()["message"] == "1 column"
    assert "Zyx" not in repr(vars(caught.value))
    log = SiteHome.find(STEP.place, context.workspace).log
    assert "column Zyx" in log.read_text()
