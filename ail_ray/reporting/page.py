"""One HTML page of a sweep or of a table run: everything within the file, nothing asked of any network.

The page is some hundred kilobytes. That of a sweep stays below 10 MB whatever it shows, pictures of noise included: at
most 3 pictures of a kind, 12 rounds of each, 480 pixels a side, 8 conditions with a mark of their own, 200 rows of a
table. That of a table run has all its figures.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup
from upath import UPath

from ail_ray.errors import ConfigError, one_line
from ail_ray.files import FileError, write_bytes
from ail_ray.reporting import sentences

Content = dict[str, Any]


def write_page(out: UPath, to: UPath, command: str, kinds: Mapping[str, Callable[[UPath], Content]]) -> str:
    """Write the page of a sweep's `--out` folder, or of a folder of `paper_tables.py`; returns its first finding.

    Args:
        command: the command that makes this page, for its readers.
        kinds: what makes the content of a page out of a folder, by a pattern of files; the first that is there counts.

    Raises:
        ConfigError: the folder holds neither, what it holds is damaged, or the page cannot be written.
    """
    try:
        content_of = next((kinds[pattern] for pattern in kinds if out.exists() and any(out.glob(pattern))), None)
    except Exception as error:  # whatever an object store's library raises, or that it is not installed
        raise ConfigError([f"{out}: cannot be read ({one_line(error)})"]) from error
    if content_of is None:
        raise ConfigError([f"{out}: neither a sweep (sweep.json, summary.json) nor a table run (table_1.json)"])
    try:
        content = content_of(out)
        content["commands"].append(("This page", command))
        text = render(content | {"made": sentences.date(time.time())})
    except FileError as error:
        raise ConfigError([str(error)]) from None
    except OSError as error:
        raise ConfigError([f"{out}: cannot be read ({error})"]) from error
    write_bytes(to, text.encode("utf-8", "replace"))  # names of files need not be Unicode
    return str(content["answers"][0])


def render(content: Content) -> str:
    """Render the page as text, in which every value is escaped, and only our own style and script may act."""
    part = {
        name: (files("ail_ray.reporting") / f"page.{name}").read_text(encoding="utf-8")
        for name in ("html", "css", "js")
    }
    allowed = {name: base64.b64encode(hashlib.sha256(part[name].encode()).digest()).decode() for name in ("css", "js")}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"estimate": sentences.estimate, "number": sentences.number}
    environment.globals["signed"] = sentences.SIGNED
    template = environment.from_string(part["html"])
    return template.render(content, style=Markup(part["css"]), script=Markup(part["js"]), allowed=allowed)
