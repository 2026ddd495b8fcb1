"""What a manifest says about how far a run is, and what it must contain to be believed."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Place:
    """How far a run is: the round it is in, the epochs of that round done, and the steps of the next epoch."""

    round: int
    epochs: int
    steps: int = 0

    def __post_init__(self) -> None:
        if not all(type(number) is int and 0 <= number < 10**9 for number in (self.round, self.epochs, self.steps)):
            raise ValueError(f"not a place in a run: {self}")

    @property
    def file(self) -> str:
        """Name of the file with the state there, made of numbers only, so that it leads to no other folder."""
        return f"round-{self.round:03d}-epoch-{self.epochs:02d}-step-{self.steps:06d}.safetensors"


def check(manifest: dict[str, Any]) -> None:
    """Check all values of a manifest that this program relies on; whoever can write one can write its checksum too."""
    counts = [manifest["config"]["rounds"], manifest["config"]["epochs"], manifest["last_round"] + 1,
              manifest["threads"], manifest["workers"]]  # fmt: skip
    if not all(type(count) is int and 0 <= count < 10**6 for count in counts):
        raise ValueError(f"counts {counts}")
    for place in manifest["places"]:
        Place(*place)
    if not all(isinstance(text, str) for text in (manifest["run"], manifest["precision"], *manifest["incidents"])):
        raise ValueError("texts that are none")
    for rows in dict(manifest.get("references", {})).values():  # older ones lack them
        for row in (*rows["validation"], *rows["test"]):
            if not all(isinstance(row[name], int | float) for name in ("psnr", "ssim", "scale")):
                raise ValueError("a reference without its numbers")
    for log in manifest["epochs"]:
        if not all(isinstance(log[name], int | float) for name in ("round", "epoch", "seconds", "crops")):
            raise ValueError("an epoch without its numbers")
