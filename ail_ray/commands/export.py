r"""Write a student as files for devices, run each in its own runtime, and say what it costs in dB and milliseconds.

    # the best student so far, as ONNX
    ail export --out phone

    # a graph from picture to picture, for two runtimes
    ail export --picture --shape 720x1280 \
        --target onnx ncnn --precision fp32 int8

    # a student of your own, on pictures of yours
    ail export --target openvino --on ~/photos \
        --model ail_out/runs/RUN/student.safetensors

Without --picture the file reads and writes luma as BT.601 has it in studio range: Y / 255 for Y = 16 + (65.481 R +
128.553 G + 24.966 B) / 255, with R, G and B in 0..255. Other targets than onnx need an extra of this package, and two
of them an environment for their converter; what is missing is said with the command that installs it. Beside the files
lies a report as JSON, and where there are several a chart. Exit codes: 0 when all files were written, 2 when the
command was refused.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from ail_ray.commands.chosen import chosen_model
from ail_ray.commands.parsing import parse, refusals, refuse
from ail_ray.delivery.upscale import prepare
from ail_ray.entry import say
from ail_ray.files import as_path, inside, write_bytes, write_json

if TYPE_CHECKING:
    from ail_ray.delivery.shipping import Report, Row


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to write, and how."""

    model: str = "champion"
    """`champion` (the best student so far, from MLflow's registry), a teacher's name (`vdsr`, or one in
    $AIL_TEACHER_DIR), or the path of a .safetensors file."""
    network: str | None = None
    """Code of the model, `file.py:Name` or `package.module:Name`, if it is a network of your own."""
    scale: int = 2
    """Factor by which pictures are enlarged: 2, 3 or 4."""
    target: tuple[Literal["onnx", "openvino", "ncnn", "litert", "coreml"], ...] = ("onnx",)
    """What is to run it."""
    precision: tuple[Literal["fp32", "fp16", "int8", "int8-w7"], ...] = ("fp32",)
    """Arithmetic of the files, a file for each: fp32 is the most accurate, int8 the smallest. int8-w7 has 7 bits of
    weight, for PCs whose processor has no VNNI; all others take int8."""
    shape: str = "dynamic"
    """Height and width of the enlarged picture, as in 720x1280, if the file is to take one size, as NPUs want it."""
    picture: bool = False
    """The whole picture in the graph: (1, H, W, 3) RGB in 8 bits in and out, conversion of colours included."""
    bytes: bool = False
    """Luma as 8-bit integers, Y itself, in and out, and not Y / 255 as floats."""
    calibration: str = "sample"
    """For int8: folder or named set of images, by which the ranges of its integers are chosen."""
    on: str = "sample-val"
    """Folder or named set of images on which the files are compared with the student."""
    make_environment: bool = False
    """Make the environments that the converters of litert and coreml need, if they are not there (gigabytes)."""
    out: str = "."
    """Folder for the files, whose names say what they are."""


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, write, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="ail export", description=__doc__ or "")
    if o.calibration != Options.calibration and not any(each.startswith("int8") for each in o.precision):
        refuse(["calibration goes with --precision int8"])
    network = prepare(partial(chosen_model, network=o.network), o.model, o.scale, (), o.out).network
    from ail_ray.delivery.shipping import Asked, ship  # here: with ONNX it takes seconds to load

    asked = Asked(
        targets=o.target, precisions=o.precision, scale=o.scale, picture=o.picture, eight_bit=o.bytes, shape=o.shape,
        calibration=o.calibration, on=o.on, folder=o.out, make_environment=o.make_environment,
    )  # fmt: skip
    report = ship(network, asked, say)
    path, drawn = (inside(as_path(o.out), f"{report.name}.{suffix}") for suffix in ("json", "svg"))
    write_json(path, asdict(report))
    say(table(report))
    if len(report.rows) > 1:
        write_bytes(drawn, chart(report).encode())
        say(f"{drawn}: dB against milliseconds")
    return 0


def table(report: "Report") -> str:
    """The report in lines of at most 80 columns."""
    threads = sorted({each for row in report.rows for each in row.milliseconds or {}})
    head = f"{'':17}{'KB':>8}{'dB':>9}{'lost':>9}{'levels':>8}"
    lines = [head + "".join(f"{'ms, ' + str(each):>9}" for each in threads)]
    lines += [
        f"{f'{row.target} {row.precision}':17}{row.kilobytes:8.0f}{_measured(row, threads)}" for row in report.rows
    ]
    for name, (decibels, took) in report.compared.items():
        lines.append(f"{name:17}{'':8}{decibels:9.3f}{'':17}{took:9.0f}")
    height, width = report.timed
    lines.append(f"dB of {report.images}; lost, and most levels of grey, against the student in torch;")
    lines.append(f"ms for a picture of {height}x{width} on so many threads")
    refused = ", ".join(report.rows[0].refused)
    lines.append(f"left to the CPU by GPUs' and NPUs' delegates: {refused or 'nothing'}")
    return "\n".join(lines)


def _measured(row: "Row", threads: list[int]) -> str:
    if row.psnr is None or row.milliseconds is None:
        return f"  not run: {row.unrun}"
    took = "".join(f"{row.milliseconds[each]:9.0f}" for each in threads)
    return f"{row.psnr:9.3f}{row.lost:9.4f}{row.largest:8.2f}{took}"


def chart(report: "Report") -> str:
    """dB against milliseconds on one thread, as an SVG that needs no page around it."""
    from ail_ray.reporting.svg import Series, scatter

    points = {f"{row.target} {row.precision}": (row.milliseconds[1], row.psnr) for row in report.rows
              if row.milliseconds and row.psnr is not None}  # fmt: skip
    compared = {name: (took, decibels) for name, (decibels, took) in report.compared.items()}
    series = [
        Series(mark=name, style="c0" if name in points else "control", points=[point], bars=[None], said=name)
        for name, point in (points | compared).items()
    ]
    drawn = scatter("dB against milliseconds", "dB by ms on one thread", series, [])
    style = "<style>text{font:11px sans-serif}.dot{fill:#1f5fa8}.control{fill:#777}.grid{stroke:#ddd}</style>"
    begin = drawn.index(">") + 1
    return drawn[:begin].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + style + drawn[begin:]
