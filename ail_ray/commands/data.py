r"""Look at folders of pictures before training on them: a page with what was found, and thumbnails.

    # a folder, and whether it holds what is measured on
    ail data ~/photos --held-back Set5 Set14

The page says how many pictures there are, of which sizes and formats; which cannot be read, are there twice or look
like another, in a set that is held back too; and which have been enlarged or heavily compressed before. Exit codes: 0
when the page was written, whatever it says, 2 when the command was refused.
"""

import sys
import time
from dataclasses import dataclass

from tyro.conf import Positional

from ail_ray.commands.parsing import parse, progress, refusals, refuse
from ail_ray.entry import called, say
from ail_ray.errors import counted
from ail_ray.files import as_path, unwritable_file, write_bytes
from ail_ray.imaging import image_sets
from ail_ray.imaging.survey import survey


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to look at."""

    images: Positional[tuple[str, ...]] = ()
    """Folders of pictures (`folder/**` enters those inside), or names of image sets."""
    held_back: tuple[str, ...] = ()
    """Sets that students are compared or tested on: is any of their pictures among those to train on?"""
    to: str = "data.html"
    """File for the page."""


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, look, write; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="ail data", description=__doc__ or "")
    problems, sets = [] if o.images else ["images: name folders or sets to look at"], dict[str, image_sets.ImageSet]()
    for role, names in (("images", o.images), ("held-back", o.held_back)):
        for name in names:
            try:
                sets[name] = image_sets.find(name)
            except image_sets.DatasetError as error:
                problems.append(f"{role}: {error}")
    problems += [f"to: {line}" for line in unwritable_file(as_path(o.to))]
    if problems:
        refuse(problems)
    from ail_ray.reporting.data_page import data_page, findings, summary  # here: its libraries take time to load

    with progress(sum(len(each.paths) for each in sets.values()), sys.stderr) as (_, advance):
        seen = {name: survey(each.paths, advance) for name, each in sets.items()}
    found = findings({name: seen[name] for name in o.images}, {name: seen[name] for name in o.held_back})
    tables = [summary(name, pictures) for name, pictures in seen.items()]
    for rows in tables:
        say("; ".join(f"{label} {value}" for label, value in rows))
    if line := image_sets.passed_over(sets.values()):
        say(line)
    for finding in found:
        say(f"{finding.title}:")
        for row in finding.rows[:5]:
            say(f"  {row.text}")
        if len(finding.rows) > 5:
            say(f"  and {len(finding.rows) - 5} more")
    title = f"{counted(sum(map(len, seen.values())), 'picture')}: " + (
        ", ".join(f.title for f in found) or "nothing wrong"
    )
    command = called("data", *arguments)
    page = data_page(tables, found, title=title, command=command, made=time.strftime("%Y-%m-%d"))
    write_bytes(as_path(o.to), page.encode("utf-8", "replace"))
    say(f"{title}\n{as_path(o.to)}")
    return 0
