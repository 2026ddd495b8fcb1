"""What training and measuring find, as frozen dataclasses: an epoch, the rows of image sets, a round."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EpochLog:
    """What happened in one epoch. Losses are means over the pixels of its crops, on luma in [0, 1]."""

    round: int
    epoch: int
    loss: float  # what was trained on: Eq. 4, or Eq. 10 under distillation
    squared_error: float  # (y - s)²
    crops: int
    seconds: float
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """PSNR (dB) and SSIM on one image set at one scale, means over its images."""

    set: str
    scale: int
    psnr: float
    ssim: float
    images: int = 0  # 0 where it was not written down

    @property
    def where(self) -> str:
        """The set and the scale in words: `Set5 ×2`."""
        return f"{self.set} ×{self.scale}"

    def __str__(self) -> str:
        return f"{self.where} {self.psnr:.2f} dB"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What was measured on the sets that students are compared on, and on those that are only measured."""

    validation: tuple[Row, ...] = ()
    test: tuple[Row, ...] = ()

    @property
    def all(self) -> tuple[Row, ...]:
        return (*self.validation, *self.test)

    @property
    def psnr(self) -> float:
        """The PSNR that students are compared by, in dB: the mean over validation sets, or over test sets without any.

        It is 0 where nothing was measured.
        """
        return mean_psnr(self.validation or self.test)

    def at_or_below(self, other: "Rows | None") -> bool:
        """Whether this is no better than something else, such as bicubic interpolation, on the sets compared on."""
        rows = (other.validation if self.validation else other.test) if other else ()
        return bool(rows) and mean_psnr(self.validation or self.test) <= mean_psnr(rows)


def mean_psnr(rows: Sequence[Row]) -> float:
    """Mean PSNR (dB) over rows; 0 where there are none."""
    return sum(row.psnr for row in rows) / len(rows) if rows else 0.0


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How the importance of all pixels is spread: mean, share of pixels at 1 (to three decimals), quantiles."""

    mean: float
    saturated: float
    p05: float
    p25: float
    p50: float
    p75: float
    p95: float


@dataclass(frozen=True, kw_only=True)
class Measured(Rows):
    """What a round has made of the student and of the importance."""

    round: int
    importance: Spread
    dead: tuple[str, ...] = ()  # layers that keep the student from ever learning again
