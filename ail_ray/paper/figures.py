"""Figures of the docs and of the paper, drawn by matplotlib as PNG."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from matplotlib.figure import Figure

from ail_ray.files import AnyPath
from ail_ray.imaging import image_sets
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.metrics import psnr
from ail_ray.imaging.panels import as_png, central_crop, side_by_side
from ail_ray.learning.importance import ErrorUnit, initial_importance
from ail_ray.learning.inference import predict, super_resolve
from ail_ray.learning.rules import first_importance, next_importance
from ail_ray.learning.weights import load_model
from ail_ray.networks.architectures import Network
from ail_ray.networks.code import resolve
from ail_ray.runs.records import RoundRecord
from ail_ray.tensors import as_tensor

ROUNDS = (0, 1, 3, 7)
PANELS: tuple[tuple[str, str, ErrorUnit, float], ...] = (
    ("eq7", "eq7", "squared", 1.0),
    ("exact", ":exact", "squared", 1.0),
    ("reference", "reference", "squared", 1.0),
    ("eq7, d = 100 |e|", "eq7", "absolute", 100.0),
    ("exact, d = 100 |e|", ":exact", "absolute", 100.0),
    ("hard_first", ":hard_first", "squared", 1.0),
)


def draw_rules(path: AnyPath, examples: str, *, lam: float = 0.15, mu0: float = 0.01, alpha0: float = 100.0) -> None:
    """Write a PNG of `w` against `|e|` in rounds 0, 1, 3 and 7 under each rule but `uniform` and `fixed`, which rest.

    Every pixel is taken to err as it did under the teacher in all rounds: what is seen is the rule, not the learning.

    Args:
        examples: the file `docs/examples/rules.py`.
    """
    error = np.linspace(0, 0.05, 501).astype(np.float16)
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    for axis, (title, name, unit, factor) in zip(axes.flat, PANELS, strict=True):
        rule = resolve(f"{examples}{name}" if name.startswith(":") else name, "rule")
        first = importance = first_importance(error, mu0=mu0, alpha0=alpha0, rule=rule)
        for t in range(max(ROUNDS) + 1):
            if t > 0:
                importance = next_importance(
                    rule, importance, error, lam=lam, unit=unit, factor=factor, round=t, mu0=mu0, first=first
                )
            if t in ROUNDS:
                axis.plot(error, importance, label=f"round {t}", color=f"{0.75 - 0.75 * t / max(ROUNDS):.2f}")
        axis.set_title(title)
    axes[0, 0].legend()
    figure.supxlabel("|e|, absolute error on [0, 1] luma")
    figure.supylabel("w, importance")
    figure.savefig(str(path), dpi=100)


def penalty_figure(*, d: float = 0.1, lam: float = 0.1) -> Figure:
    """Figure 1: the penalty `h(w, w')` of Eq. 5, what Eq. 6 minimises, and its minimiser by Eq. 7."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for last, colour in ((0.0, "tab:blue"), (0.3, "tab:orange"), (0.6, "tab:green")):
        rise = np.linspace(1e-6, min(0.4, 1 - last), 400)
        penalty = rise * (np.log(rise / lam) - 1)
        axes.plot(last + rise, penalty, color=colour, label=f"h(w, w') for w' = {last:g}")
        axes.plot(last + rise, d * (last + rise) + penalty, "--", color=colour)
        best = last + lam * np.exp(-d)
        axes.plot(best, d * best + lam * np.exp(-d) * (-d - 1), "o", color=colour)
    axes.set(xlabel="w, importance", ylabel="h(w, w'); dashed: d w + h(w, w')", title=f"d = {d:g}, λ = {lam:g}")
    axes.legend()
    return figure


def initialisation_figure(teacher: Network, images: EvaluationImages) -> Figure:
    """Figure 2: Eq. 8 with several constants; an image, the teacher's error on it, and its importance."""
    hr = images.hr[0]
    inputs = as_tensor(images.inputs(teacher.traits.upsampling)[0])
    error = np.abs(hr / 255.0 - super_resolve(teacher, inputs, "fp32").numpy())
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    axes = figure.subplots(1, 4)
    x = np.linspace(0, 0.1, 300)
    for mu0, alpha0 in ((0.01, 100.0), (0.02, 100.0), (0.01, 200.0), (0.05, 100.0)):
        axes[0].plot(x, initial_importance(x, mu0, alpha0), label=f"µ0 = {mu0:g}, α0 = {alpha0:g}")
    axes[0].set(xlabel="x, teacher's error on [0, 1] luma", ylabel="g(x), importance")
    axes[0].legend(fontsize="small")
    pictures = (("image", hr, 255), ("teacher's error, white 0.1", error, 0.1),
                ("importance, µ0 = 0.01, α0 = 100", initial_importance(error), 1))  # fmt: skip
    for axis, (title, picture, white) in zip(axes[1:], pictures, strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=white)
        axis.set_title(title)
        axis.set_axis_off()
    return figure


def curves_figure(records: Mapping[str, Sequence[Sequence[RoundRecord]]]) -> Figure:
    """Figure 3: PSNR and SSIM on every test set against the round, by method; means over the runs of each.

    Args:
        records: the rounds' records of every run of each method.
    """
    first = next(iter(records.values()))[0][0].test
    figure = Figure(figsize=(1 + 4.5 * len(first), 6.4), layout="constrained")
    axes = figure.subplots(2, len(first), squeeze=False, sharex=True)
    for (i, row), (measure, unit) in product(enumerate(first), (("psnr", "PSNR, dB"), ("ssim", "SSIM"))):
        axis = axes[int(measure == "ssim"), i]
        for name, trials in records.items():
            curve = np.mean([[getattr(record.test[i], measure) for record in trial] for trial in trials], axis=0)
            shown = slice(1, None) if name.endswith("init_0") else slice(None)  # its round 0 trains nothing
            label = name if len(trials) == 1 else f"{name}, mean of {len(trials)}"
            axis.plot(np.arange(len(curve))[shown], curve[shown], marker=".", label=label)
        axis.set(ylabel=unit, title=row.where)
    for axis in axes[-1]:
        axis.set_xlabel("round")
    axes[0, 0].legend(fontsize="small")
    return figure


def students_picture(weights: Mapping[str, AnyPath], images: EvaluationImages) -> bytes:
    """Figures 4 and 9, as PNG: the middle of an image, as made by bicubic interpolation and by each network."""
    hr, made = images.hr[0], {"bicubic": predict(None, images.bicubic[0])}
    for name, file in weights.items():
        model = load_model(file)
        made[name] = predict(model, images.inputs(model.traits.upsampling)[0])
    captions = [f"{name} {psnr(hr, sr, images.scale):.2f} dB" for name, sr in made.items()]
    crops = [central_crop(image, 96) for image in (*made.values(), hr)]
    return as_png(side_by_side(crops, [*captions, "original"]))


def pictured(scale: int) -> EvaluationImages:
    """What Figures 2, 4 and 9 show: the butterfly of Set5, else a bundled photograph."""
    try:
        file = image_sets.find("Set5").paths[2]
    except image_sets.DatasetError:
        file = image_sets.find("sample-val").paths[0]
    return EvaluationImages.read(file.stem, scale, [file])
