"""What a cluster's machines cost for a sweep, beside the work itself: they boot, fetch their image, and idle.

None of this can be measured before there is a cluster, so these figures are assumed, and the plan says so.
"""

import math
from dataclasses import dataclass

BOOT = 180.0  # seconds from a machine's request to its container runtime; clouds and GPU drivers differ
PULL = 240.0  # seconds for the image of `cluster/Dockerfile`, about 8 GB at 50 MB/s, with its unpacking
IDLE = 330.0  # seconds before an unused node goes: 30 of its slot, and the five minutes of the files in `cluster/`


@dataclass(frozen=True, kw_only=True)
class Bill:
    """The hours of everything that a sweep keeps running.

    A cluster that grows brings a node for each `unit` (a GPU, or a worker on CPUs) once; in one that does not,
    machines are there before and after, and nobody counts their boot.
    """

    unit: str  # "GPU" or "worker"
    work: float  # hours of units that train or start, or see a teacher's pictures
    units: float  # at once; 0.25 of a GPU four times is one
    seconds: float  # from the first node's request to the end
    grows: bool
    price: float | None  # of a unit for an hour, in any currency
    head_price: float | None  # of the head for an hour

    @property
    def around(self) -> float:
        """Hours of units that are paid for and do nothing: each boots and fetches its image once, and idles once."""
        return math.ceil(self.units - 1e-9) * (BOOT + PULL + IDLE) / 3600 if self.grows else 0.0

    @property
    def head(self) -> float:
        """Hours of the head, which has to boot and to fetch the image before it asks for others."""
        return (self.seconds + (BOOT + PULL if self.grows else 0.0)) / 3600

    def rows(self) -> list[tuple[str, str]]:
        """The lines of it for a plan, as names and texts."""
        found = list[tuple[str, str]]()
        if self.grows:
            found = [
                ("nodes", f"{self.around:.2f} {self.unit}-hours beside the work, for "
                          f"{math.ceil(self.units - 1e-9)} × ({BOOT / 60:g} min of boot, {PULL / 60:g} min of image "
                          f"pull, {IDLE / 60:g} min idle before it goes), all assumed"),
                ("head", f"{self.head:.2f} hours with its own start, until the sweep ends; `ray down` ends it"),
            ]  # fmt: skip
        if self.price is None and self.head_price is None:
            return found
        parts, total, hour = list[str](), 0.0, f"for a {self.unit}-hour"
        if self.price is not None:
            work, around = self.work * self.price, self.around * self.price
            parts += [f"{work:.2f} of work" + (f" and {around:.2f} beside it" if self.grows else "")]
            parts[-1] += f" at {self.price:g} {hour}"
            total += work + around
        if self.head_price is not None:
            parts.append(f"{self.head * self.head_price:.2f} of the head at {self.head_price:g} for an hour")
            total += self.head * self.head_price
        elif self.grows:
            parts.append("without the head (--head-price)")
        return [*found, ("price", f"{total:.2f}: {', '.join(parts)}")]
