"""The model registry: one version per training, and which version is ``champion``.

What a version is made of: :mod:`pipelines.coordinator.model_version`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from folkmoot.errors import ConfigError
from folkmoot.metrics import HIGHER_IS_BETTER, PRIMARY
from folkmoot.params import Params
from pipelines.coordinator.mirror import Mirror
from pipelines.coordinator.model_version import CANDIDATE, CHAMPION, METRIC, create_version
from pipelines.coordinator.published import Published

__all__ = ["WAITS", "Registered", "decide", "model_name", "register_version", "verdict"]

#: How the verdict begins where it is for a person to decide (``approval.champion``).
WAITS = "waits for approval: "


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Parameters
    ----------
    name, version : str, int
        As in ``models:/<name>/<version>``.
    aliases : tuple of str
        ``candidate``, ``champion``, both or neither (a later version took them).
    reason : str
        Why it did or did not become champion.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    reason: str


def model_name(params: Params) -> str:
    """``tracking.model_name``, or ``<federation>-<kind>``."""
    return params.tracking.model_name or f"{params.federation.name}-{params.model.kind}"


def register_version(mirror: Mirror, found: Published) -> Registered:
    """Make the version unless it exists, then settle the aliases; safe to repeat.

    Parameters
    ----------
    mirror : Mirror
        MLflow's side of the run.
    found : Published
        The run with its result.
    """
    context, client = mirror.context, mirror.client
    name = model_name(context.params)
    versions = {int(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
    mine = [n for n, v in versions.items() if v.tags.get("folkmoot.run") == context.run]
    if not mine:
        made = create_version(mirror, found, name)
        versions[int(made.version)] = made
        mine = [int(made.version)]
    number = mine[0]
    aliases = {a: int(n) for a, n in client.get_registered_model(name).aliases.items()}
    if number == max(versions) and aliases.get(CANDIDATE) != number:
        client.set_registered_model_alias(name, CANDIDATE, str(number))
        aliases[CANDIDATE] = number
    tags = versions[number].tags
    reason = tags.get("folkmoot.verdict")
    if reason is None:
        champion = aliases.get(CHAMPION)
        other = versions[champion].tags if champion in versions and champion != number else None
        wins, reason = verdict(context.contract.task, tags, other)
        if other is not None:
            reason += f" (against version {champion})"
        if wins and context.params.approval.champion:
            reason = f"{WAITS}{reason}"
        elif wins:
            client.set_registered_model_alias(name, CHAMPION, str(number))
            aliases[CHAMPION] = number
        client.set_model_version_tag(name, str(number), "folkmoot.verdict", reason)
    held = tuple(alias for alias in sorted(aliases) if aliases[alias] == number)
    return Registered(name, number, held, reason)


def decide(mirror: Mirror, run: str, approved: bool, by: str) -> Registered:
    """A person's decision on the version of a run; safe to repeat.

    Approved, it becomes champion, unless another version has become champion since that it does not
    beat: then it stays candidate, and the verdict says so.

    Raises
    ------
    ConfigError
        Where the run has no version, or none that waits for a decision.
    """
    context, client = mirror.context, mirror.client
    name = model_name(context.params)
    versions = {int(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
    number = next((n for n, v in versions.items() if v.tags.get("folkmoot.run") == run), None)
    before = None if number is None else versions[number].tags.get("folkmoot.verdict", "")
    if number is None or before is None or not before.startswith(WAITS):
        what = "made no version" if number is None else f"waits for nobody: {before}"
        raise ConfigError(
            "config.invalid",
            f"The model of run {run} {what}.",
            "folkmoot lineage lists the models; move the alias by hand to change a decision.",
        )
    reason = before.removeprefix(WAITS)
    aliases = {a: int(n) for a, n in client.get_registered_model(name).aliases.items()}
    if not approved:
        reason = f"rejected by {by}; {reason}"
    else:
        champion = aliases.get(CHAMPION)
        other = versions[champion].tags if champion in versions and champion != number else None
        wins, reason = verdict(context.contract.task, versions[number].tags, other)
        if wins:
            client.set_registered_model_alias(name, CHAMPION, str(number))
            aliases[CHAMPION] = number
        reason = f"approved by {by}; {reason}"
        if other is not None:
            reason += f" (against version {champion})"
    client.set_model_version_tag(name, str(number), "folkmoot.verdict", reason)
    held = tuple(alias for alias in sorted(aliases) if aliases[alias] == number)
    return Registered(name, number, held, reason)


def verdict(
    task: str, mine: Mapping[str, str], champion: Mapping[str, str] | None
) -> tuple[bool, str]:
    """Whether a new version becomes champion, and why.

    The metric of the task (:data:`folkmoot.metrics.PRIMARY`) on all sites' held-out rows must be
    strictly better.  Where the held-out rows changed since (a site refreshed its data), each
    model's metric is its own run's: they are compared all the same, and the reason says so.  A
    model whose noise came from a seed never becomes champion; one without differential privacy
    does not take the place of one with it: that is for a person to do (`set the alias by hand`).

    Parameters
    ----------
    task : str
        ``binary``, ``multiclass`` or ``regression``.
    mine, champion : dict of str to str
        Tags of the two versions; None where there is no champion.
    """
    name = PRIMARY[task]
    if mine.get("folkmoot.seeded") == "true":
        return False, "its noise came from a seed, so it is NOT PRIVATE and stays candidate"
    if champion is None:
        return True, "there was no champion"
    if champion.get("folkmoot.private") == "true" and mine.get("folkmoot.private") != "true":
        return False, "the champion is differentially private and it is not: move the alias by hand"
    ours, theirs = (tags.get(METRIC + name) for tags in (mine, champion))
    if ours is None or theirs is None:
        return False, f"{name} is not known of both, so they cannot be compared"
    new, old = float(ours), float(theirs)
    wins = new > old if name in HIGHER_IS_BETTER else new < old
    same = mine.get("folkmoot.held_out") == champion.get("folkmoot.held_out")
    rows = "the same held-out rows" if same else "held-out rows that have changed since"
    return wins, f"{name} {new:.6g} {'beats' if wins else 'does not beat'} {old:.6g} on {rows}"
