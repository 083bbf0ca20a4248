"""Whether a database answers, told without repeating its URL's password."""

from __future__ import annotations

from urllib.parse import urlsplit

from folkmoot.errors import ConfigError, TransientError

__all__ = ["check_database", "shown"]


def shown(url: str) -> str:
    """The URL without user, password and query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def check_database(url: str, name: str) -> None:
    """Connect once.

    Parameters
    ----------
    url : str
        As SQLAlchemy takes it.
    name : str
        Key of ``server.toml`` that it stands under.

    Raises
    ------
    ConfigError
        ``config.installation`` without the driver; ``config.invalid`` where the login, the database or
        a right is missing.
    TransientError
        ``transient.service`` where nothing answers there.
    """
    from sqlalchemy import create_engine, exc, text

    where = shown(url)
    timeout = {"connect_timeout": 10} if url.startswith("postgresql") else {}
    try:
        engine = create_engine(url, connect_args=timeout)
    except ModuleNotFoundError:
        raise ConfigError(
            "config.installation",
            f"{name}: the driver for {where} is not installed.",
            "uv pip install -e '.[postgres]'",
        ) from None
    except (exc.ArgumentError, ValueError):
        raise ConfigError(
            "config.invalid",
            f"{name} is no URL of a database.",
            "Write it as postgresql+psycopg2://user:password@host:5432/name.",
        ) from None
    try:
        with engine.connect() as connection:
            if url.startswith("postgresql"):
                may = connection.execute(
                    text("select has_schema_privilege(current_schema(), 'CREATE')")
                ).scalar()
                if not may:
                    raise ConfigError(
                        "config.invalid",
                        f"{name}: the user of {where} may not make tables there.",
                        "Make the user owner of the database: ALTER DATABASE … OWNER TO ….",
                    )
    except exc.OperationalError as error:
        # What PostgreSQL says names users and databases, in the language of its server.
        refused = any(
            word in str(error.orig) for word in ("authentication", "does not exist", "pg_hba")
        )
        if refused:
            raise ConfigError(
                "config.invalid",
                f"{name}: the database at {where} answers, but refuses user, password or name.",
                "Correct it in coordinator/server.toml, or make user and database.",
            ) from None
        raise TransientError(
            "transient.service",
            f"{name}: nothing answers at {where}.",
            "Start the database, and check host, port and firewall.",
        ) from None
    finally:
        engine.dispose()
