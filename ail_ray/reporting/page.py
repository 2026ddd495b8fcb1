"""One HTML page of a sweep or of a table run: everything within the file, nothing asked of any network.

The page is some hundred kilobytes. That of a sweep stays below 10 MB whatever it shows, pictures of noise included: at
most 3 pictures of a kind, 12 rounds of each, 480 pixels a side, 8 conditions with a mark of their own, 200 rows of a
table. That of a table run has all its figures.
"""

import base64
import hashlib
import time
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup
from upath import UPath

from ail_ray.errors import ConfigError, one_line
from ail_ray.files import FileError, write_bytes
from ail_ray.reporting import words
from ail_ray.reporting.findings import MALFORMED, findings
from ail_ray.reporting.sweep_page import sweep_page
from ail_ray.reporting.tables_page import tables_page


def write_page(out: UPath, to: UPath, command: str) -> str:
    """Write the page of a sweep's `--out` folder, or of a folder of `paper_tables.py`; returns its first finding.

    Args:
        command: the command that makes this page, for its readers.

    Raises:
        ConfigError: the folder holds neither, what it holds is damaged, or the page cannot be written.
    """
    try:
        tables = sorted(out.glob("table_*.json"), key=lambda path: path.name) if out.exists() else []
        sweep = any((out / name).exists() for name in ("sweep.json", "summary.json"))
    except Exception as error:  # whatever an object store's library raises, or that it is not installed
        raise ConfigError([f"{out}: cannot be read ({one_line(error)})"]) from error
    if not tables and not sweep:
        raise ConfigError([f"{out}: neither a sweep (sweep.json, summary.json) nor a table run (table_1.json)"])
    try:
        content = sweep_page(findings(out)) if sweep else tables_page(out, tables)
        content["commands"].append(("This page", command))
        text = render(content | {"made": words.date(time.time())})
    except FileError as error:
        raise ConfigError([str(error)]) from None
    except OSError as error:
        raise ConfigError([f"{out}: cannot be read ({error})"]) from error
    except (*MALFORMED, jinja2.UndefinedError) as error:  # JSON, but not what we have written
        raise ConfigError(
            [f"{out}: damaged, or written by another version ({type(error).__name__}: {error})"]
        ) from error
    write_bytes(to, text.encode("utf-8", "replace"))  # names of files need not be Unicode
    return str(content["answers"][0])


def render(content: dict[str, Any]) -> str:
    """Render the page as text, in which every value is escaped, and only our own style and script may act."""
    part = {
        name: (files("ail_ray.reporting") / f"page.{name}").read_text(encoding="utf-8")
        for name in ("html", "css", "js")
    }
    allowed = {name: base64.b64encode(hashlib.sha256(part[name].encode()).digest()).decode() for name in ("css", "js")}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"estimate": words.estimate, "number": words.number}
    environment.globals["signed"] = words.SIGNED
    template = environment.from_string(part["html"])
    return template.render(content, style=Markup(part["css"]), script=Markup(part["js"]), allowed=allowed)
