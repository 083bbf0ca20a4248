"""``folkmoot local``: private statistics and models of one site, for its own people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from folkmoot.cli.places import Overrides, ParamsFile, Workspace, params_of

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="""Private statistics and models of one site's own rows, charged to its ledger.

    **For example:** `folkmoot local statistic site-a mean age --epsilon 0.1`
    """,
)

Site = Annotated[str, typer.Argument(help="Name of the site.")]
Epsilon = Annotated[float, typer.Option(help="Budget of this analysis, pure, per record.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write JSON here, not to the screen."),
]


@app.command("statistic")
def statistic_(
    site: Site,
    name: Annotated[str, typer.Argument(help="mean, quantile or histogram.")],
    feature: Annotated[
        str, typer.Argument(help="A column, or column=category of an encoded category.")
    ],
    epsilon: Epsilon,
    quantile: Annotated[float | None, typer.Option(help="Which quantile, 0 to 1.")] = None,
    bins: Annotated[int | None, typer.Option(help="Bins of the histogram; 10 by default.")] = None,
    output: Output = None,
    params: ParamsFile = None,
    set_: Overrides = None,
    workspace: Workspace = None,
) -> None:
    """A noised mean, quantile or histogram of one feature (diffprivlib).

    Bounds come from the contract. The ledger is charged before noise is drawn, ceilings of `site.toml`
    hold, and every call is a new charge.

    **Examples**

    `folkmoot local statistic site-a mean age --epsilon 0.1`

    `folkmoot local statistic site-a quantile age --quantile 0.5 --epsilon 0.1`

    `folkmoot local statistic site-a histogram age --bins 8 --epsilon 0.2`
    """
    given = {"quant": quantile, "bins": bins}
    _analyse(site, name, epsilon, given, output, params, set_, workspace, feature, fits=False)


@app.command()
def fit(
    site: Site,
    name: Annotated[
        str,
        typer.Argument(
            help="GaussianNB, LinearRegression, LogisticRegression, PCA, RandomForestClassifier or "
            "StandardScaler."
        ),
    ],
    epsilon: Epsilon,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="An option of the estimator; may be repeated."),
    ] = None,
    output: Output = None,
    params: ParamsFile = None,
    set_: Overrides = None,
    workspace: Workspace = None,
) -> None:
    """Fit one of diffprivlib's estimators on the site's training rows.

    The result is JSON: what was learnt, the features and their public bounds, and what it cost.

    **Examples**

    `folkmoot local fit site-a GaussianNB --epsilon 1 -o naive-bayes.json`

    `folkmoot local fit site-a RandomForestClassifier --epsilon 2 --option n_estimators=20 -o f.json`
    """
    given = dict(_number(text) for text in option or ())
    _analyse(site, name, epsilon, given, output, params, set_, workspace, None, fits=True)


def _analyse(
    site: str,
    name: str,
    epsilon: float,
    options: dict[str, Any],
    output: Path | None,
    params: Path | None,
    set_: list[str] | None,
    workspace: Path | None,
    feature: str | None,
    *,
    fits: bool,
) -> None:
    from folkmoot.errors import ConfigError
    from pipelines.hosts.walk import contract_for
    from site_tasks.home import SiteHome
    from site_tasks.local_analysis import analyse
    from site_tasks.local_library import ESTIMATORS, STATISTICS

    known = ESTIMATORS if fits else STATISTICS
    if name not in known:
        raise ConfigError(
            "config.invalid", f"There is no {name} here.", f"Choose of {', '.join(known)}."
        )
    settings = params_of(params, set_)
    folder = workspace or Path(settings.federation.workspace)
    if output is not None and not output.parent.is_dir():  # before anything is spent
        raise ConfigError(
            "config.missing-file", f"{output.parent} is no folder.", "Make it, or write elsewhere."
        )
    found = analyse(
        SiteHome.find(site, folder),
        folder,
        settings,
        contract_for(settings),
        name,
        epsilon,
        feature=feature,
        **{key: value for key, value in options.items() if value is not None},
    )
    text = json.dumps(found, indent=None if output is None else 1)
    if output is None:
        typer.echo(text)
        return
    output.write_text(text + "\n", encoding="utf-8")
    cost = found["privacy"]["epsilon"]
    typer.echo(f"{output}: {found['what']}; epsilon {cost:g} was charged to site {site}.")


def _number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, int(value) if value.lstrip("-").isdecimal() else float(value)
    except ValueError:
        raise typer.BadParameter("--option is written NAME=NUMBER, such as l2=0.5") from None
