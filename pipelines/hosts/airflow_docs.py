"""What Airflow's pages say about DAGs and tasks (Markdown)."""

from __future__ import annotations

from folkmoot.contract import Contract
from folkmoot.params import Params
from folkmoot.plan import COORDINATOR, RoundPlan, Step

__all__ = ["DESCRIPTION", "DISPLAY", "dag", "refresh", "step", "title"]

DISPLAY = {
    "linear": "Federated linear model",
    "trees": "Federated trees",
    "statistics": "Federated statistics",
}
DESCRIPTION = {
    "linear": "Train one linear model over all sites; rows stay where they are.",
    "trees": "Train one XGBoost model over all sites; rows stay where they are.",
    "statistics": "Count, compare and compute over all sites; rows stay where they are.",
}

PREPARE = "Version, validate, anonymise and encode the site's rows; quick where nothing changed."
ANONYMISE = (
    "Identifiers off, quasi-identifiers recoded, privacy models proven by a checker of its own; the "
    "risk report stays at the site."
)
AGREE = "The sites settle on one schema: levels of generalisation that each can live with."
SETUP = (
    "Once per run: every site announces keys and deals shares of its secrets for the secure sums."
)
STATISTICS = "Sum the sites' statistics under masks."
EVALUATE = "Evaluate the final model on every site's held-out rows."

OPEN = """Fixes params (with the form's changes), contract and roster of the run in `run.json`.

While another run of the federation goes on, this task is up for retry and tries every 15 seconds.
Clearing tasks of this DAG run resumes the same run: finished steps are not repeated."""

REPORT = """Writes the model as a file into the coordinator's folder. For recipes, where all rows are
at hand, also trains each site alone and on pooled rows, to compare with; never for real sites."""

TRACK = """Mirrors rounds, metrics and budgets into MLflow while they happen. Rounds do not wait for
it: where MLflow is down, this task ends as skipped and `register` catches up."""

REGISTER = """Brings MLflow up to date and registers the model as `candidate`; it becomes `champion`
when it beats the present champion on held-out rows. Clear this task once MLflow answers again."""

CONSENT = """Asks whether a site takes part, before its first round in this federation and contract
(`approval.consent`). Answer it under *Required actions*. What was answered is not asked again. The site
itself goes by its steward's signed record: `folkmoot site consent`."""

APPROVE = """Asks whether the model becomes `champion` (`approval.champion`), where it beats the present
one. Without an answer it stays `candidate`; `folkmoot approve RUN` decides later."""

ANNOUNCE = """Updates the Asset of every site whose dataset version is new, all at once, so that one
training follows. Skipped where nothing changed."""

REFRESH = """### Refresh site data

Each site records the present rows of its dataset as a version in its own DVC repository. Where the
version is new, the site's Asset is updated with its keyed fingerprint, which starts the federated
DAGs (`schedule.on_new_data`). Rows never leave the site."""

_BODIES = {
    "site.version": "Resolves the dataset version (DVC) and checks that the rows are those.",
    "site.validate": "Checks the rows against the data contract; errors count rows, never show them.",
    "site.agree": (
        "Searches the lattice of levels over the site's rows, and releases one small code per node: "
        "in which step its loss beyond its own optimum lies, and whether it would pass its limit."
    ),
    "site.anonymise": (
        "Drops or pseudonymises direct identifiers, recodes quasi-identifiers, proves every privacy "
        "model that is asked for before anything is written. A column that looks like an identifier "
        "stops it until the steward answers in `site.toml`."
    ),
    "site.verify": (
        "Reads the anonymised table back as it was written and proves every privacy model once more, "
        "by a checker that shares no code with the engines. Without its proof nothing is encoded."
    ),
    "site.report": (
        "Writes the risk report beside the table, where it stays; only the figures that `site.toml` "
        "lists under `anonymisation.summary` leave, with the statistics."
    ),
    "site.encode": "Encodes rows by the contract's public categories and releases summed statistics.",
    "site.columns": "Makes arrays of the columns that are asked about; releases a receipt alone.",
    "site.sums": "Counts the site's rows by public bins and categories, and releases the sums.",
    "site.blind": (
        "Hashes the site's people to a curve, blinds them under a fresh scalar for each partner, "
        "fills every set up to one public size, and releases a sealed box per partner."
    ),
    "site.reblind": "Opens the partners' boxes, blinds their points too, publishes sorted digests.",
    "site.share_counts": "Splits the site's counts into a sealed share for each computing site.",
    "site.compute": (
        "Adds up the shares of all sites and computes on them with the other two computing sites "
        "(MPyC); waits until all three run."
    ),
    "coordinator.begin_statistics": "Notes who takes part, and the public bounds to begin with.",
    "coordinator.relay": "Lists the sites whose boxes are there, with the digest of each.",
    "coordinator.tally": "Opens what the round summed, compared or computed, and writes its record.",
    "coordinator.conclude_statistics": "Gathers the answers of all rounds.",
    "site.train_linear": "Computes this round's update, applies privacy, signs and releases it.",
    "site.train_trees": "Grows this round's trees, signs and releases them.",
    "site.train_histograms": (
        "Sums gradients and Hessians by bin for the nodes that the incoming model asks for; several "
        "exchanges make a tree."
    ),
    "site.join": (
        "Checks permissions and writes the ledger's entry before the round's live session, which leaves "
        "through XGBoost's communicator."
    ),
    "site.train_live": (
        "Trains with all other sites over a direct connection to the tracker, in a process of its own, "
        "and releases the trees when all sites hold them. Runs at the same time as the other sites' and "
        "the tracker's task."
    ),
    "coordinator.track": (
        "Holds the live session: XGBoost's tracker in a process of its own, certificates, heartbeats. "
        "Where a site is lost it ends the session for all and names it; a retry goes on behind the "
        "last round."
    ),
    "site.train_forest": (
        "Grows diffprivlib's forest on the site's rows and releases its trees, which vote."
    ),
    "site.train_local_dp": "Trains diffprivlib's own estimator and releases the model.",
    "site.train_private": (
        "Sums what the round asks of every record, clipped, and releases the sum under noise."
    ),
    "site.evaluate": "Counts the final model's hits and errors on held-out rows, and releases counts.",
    "site.announce": (
        "Draws one key per secure sum of the run and publishes the public halves, signed. The first "
        "of two tasks of the set-up."
    ),
    "site.share": (
        "Deals shares of the site's secrets to its neighbours, sealed for each of them, so that sums "
        "can be opened without sites that are lost. The second task of the set-up."
    ),
    "site.statistics": "Releases the summed statistics of the prepared rows, under masks.",
    "site.unmask": (
        "Checks the list of survivors and answers it, once: a share of the self-mask of every site "
        "that contributed, or of the key of one that did not, never both. A site that is lost here "
        "stays in the sum."
    ),
    "coordinator.keys": "Publishes the list of the sites' key messages.",
    "coordinator.deal": "Passes every site the shares that were sealed for it; names the members.",
    "coordinator.survivors": (
        "Publishes the signed statements of the sites whose contribution is there. Sites that are "
        "missing are left out of the sum without running the others again."
    ),
    "coordinator.settle": (
        "Picks the levels of least summed loss that all sites satisfy. A site whose limit alone would "
        "cost the others too much is left out as far as the quorum allows. Under masks sums decide."
    ),
    "coordinator.initialise": "Makes the initial model, scaled by the sites' summed statistics.",
    "coordinator.aggregate": (
        "Aggregates the released updates by site name, writes the round's record, and decides "
        "whether rounds go on. Sites that did not contribute are left out, as long as the quorum "
        "holds; their later tasks are skipped."
    ),
    "coordinator.conclude": "Combines the evaluations and writes the run's result.",
}
_TITLES = {
    "site.train_linear": "Train",
    "site.train_trees": "Train",
    "site.train_histograms": "Train",
    "site.train_live": "Train",
    "coordinator.track": "Session",
    "site.train_forest": "Train",
    "site.train_local_dp": "Train",
    "site.train_private": "Train",
    "site.verify": "Verify the table of",
    "site.report": "Risk report of",
    "site.agree": "Levels",
    "site.announce": "Announce keys of",
    "site.share": "Deal shares of",
    "coordinator.keys": "List the keys",
    "coordinator.deal": "Deliver the shares",
    "coordinator.survivors": "List who contributed",
    "coordinator.settle": "Settle on levels",
    "site.sums": "Sums of",
    "site.share_counts": "Share counts of",
    "coordinator.begin_statistics": "Begin",
    "coordinator.conclude_statistics": "Conclude",
}


def title(step: Step) -> str:
    """Name of a step's task for people."""
    verb = _TITLES.get(step.body, step.body.rsplit(".", 1)[1].capitalize())
    if step.name.startswith("prepare/recode/"):
        verb = "Recode"
    where = "" if step.place == COORDINATOR else f" {step.place}"
    when = f", round {step.round}" if step.name.startswith("round-") and step.round else ""
    return f"{verb}{where}{when}"


def step(step: Step) -> str:
    """Documentation of a step's task."""
    lines = [_BODIES[step.body], ""]
    if step.place == COORDINATOR:
        required = len(step.after) if step.quorum is None else step.quorum
        lines.append(f"Needs {required} of {len(step.after)} sites.")
    else:
        lines.append(f"Runs at site `{step.place}`, beside its data (queue `site-{step.place}`).")
    if step.outputs:
        lines.append("Publishes " + ", ".join(f"`{key}`" for key in step.outputs) + ".")
    return "\n".join(lines)


def refresh(site: str) -> str:
    """Documentation of a site's refresh task."""
    return (
        f"Records the present rows of `{site}` as a dataset version; quick where nothing changed."
    )


def dag(params: Params, contract: Contract, plan: RoundPlan) -> str:
    """Documentation of a federated DAG."""
    privacy = params.privacy
    protection = {
        "none": "none",
        "clip": f"updates clipped to norm {privacy.clip_norm:g}",
        "gaussian": f"clip norm {privacy.clip_norm:g}, noise multiplier {privacy.noise_multiplier:g}",
        "diffprivlib": f"diffprivlib estimators, epsilon {privacy.epsilon}",
    }[privacy.mechanism]
    if privacy.clipping == "record":
        protection = (
            f"records clipped, epsilon {privacy.epsilon:g} at delta {privacy.delta:g} for the run, "
            f"noise {privacy.noise}"
        )
    made = f"{plan.kind}, {params.model.chosen.strategy}, at most {plan.rounds} rounds"
    if params.statistics.active:
        made = f"none: {', '.join(params.statistics.ask)}"
    return f"""### Federation `{plan.federation}`

{DESCRIPTION[plan.kind]}

| | |
|---|---|
| sites | {", ".join(f"`{site}`" for site in plan.sites)} |
| quorum | {params.federation.required} of {len(plan.sites)} |
| model | {made} |
| contract | `{contract.name}` version {contract.version} ({contract.task}) |
| privacy | {protection} |
| deadline of a site's task | {params.federation.deadline_seconds} s |

A site that fails or is late is left out as long as the quorum holds: its task shows failed, its later
tasks skipped, and the aggregate's log says so. When rounds end early, later rounds show skipped.
Settings come from `params.yaml`; the form before a run changes what does not alter this graph.
"""
