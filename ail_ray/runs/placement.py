"""How many workers a run has, and what each of them needs."""

from dataclasses import dataclass, replace

from ail_ray.runs.records import Manifest


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a run runs, which is never part of its identity."""

    workers: int | str = 1
    """Train workers of every trial, which divide its shards among them. `1..4` takes as many as are free then."""
    threads: int = 1
    """CPU threads of every worker. Workers x threads x concurrent trials should be the number of cores."""
    gpu: bool = False
    """Give every worker a GPU."""
    gpus_per_worker: float = 1.0
    """With --gpu: how much of a GPU a worker takes. Trials of one worker may share one: 0.25 for four of them."""

    @property
    def fewest(self) -> int:
        """How many workers a run needs to go on.

        Raises:
            ValueError: `workers` is neither a number nor a range.
        """
        return int(str(self.workers).partition("..")[0])

    @property
    def most(self) -> int:
        """How many workers a run can use; more than the fewest if it is elastic."""
        first, dots, last = str(self.workers).partition("..")
        return int(last if dots else first)

    def of(self, manifest: Manifest) -> "Placement":
        """The placement of a run begun before: with its threads and, unless this one is elastic, its workers."""
        elastic = self.fewest < self.most
        return replace(self, threads=manifest.threads, workers=self.workers if elastic else manifest.workers)

    @property
    def device(self) -> str:
        """The kind of device that a worker computes on, as torch calls it."""
        return "cuda" if self.gpu else "cpu"

    def worker_resources(self) -> dict[str, float]:
        """What Ray must find free for a worker."""
        return {"CPU": self.threads, **({"GPU": self.gpus_per_worker} if self.gpu else {})}
