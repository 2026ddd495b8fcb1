"""One HTML page of a sweep or of a table run: everything within the file, nothing asked of any network.

The page stays below about 5 MB whatever it shows: at most 12 rounds of a picture, 4 pictures of a kind, 560 pixels a
side, 8 conditions by name and 200 rows of a table.
"""

import base64
import hashlib
import time
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import write_bytes
from ail_ray.reporting import words
from ail_ray.reporting.findings import findings
from ail_ray.reporting.sweep_page import sweep_page
from ail_ray.reporting.tables_page import tables_page


def write_page(out: UPath, to: UPath, command: str) -> str:
    """Write the page of a sweep's `--out` folder, or of a folder of `paper_tables.py`; returns its first finding.

    Args:
        command: that makes this page, for its readers.

    Raises:
        ConfigError: the folder holds neither, or what it holds is damaged.
    """
    if any((out / name).exists() for name in ("sweep.json", "summary.json")):
        content = sweep_page(findings(out))
    elif tables := sorted(out.glob("table_*.json"), key=lambda path: path.name) if out.exists() else []:
        content = tables_page(out, tables)
    else:
        raise ConfigError([f"{out}: neither a sweep (sweep.json, summary.json) nor a table run (table_1.json)"])
    content["commands"].append(("This page", command))
    write_bytes(to, render(content | {"made": words.date(time.time())}).encode())
    return str(content["answers"][0])


def render(content: dict[str, Any]) -> str:
    """The page as text; every value is escaped, and only our own style and script may act in it."""
    part = {name: (files("ail_ray.reporting") / f"page.{name}").read_text() for name in ("html", "css", "js")}
    allowed = {name: base64.b64encode(hashlib.sha256(part[name].encode()).digest()).decode() for name in ("css", "js")}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"estimate": words.estimate, "number": words.number}
    environment.globals |= {"signed": words.SIGNED, "plain": words.PLAIN}
    template = environment.from_string(part["html"])
    return template.render(content, style=Markup(part["css"]), script=Markup(part["js"]), allowed=allowed)
