"""What a sweep will cost, before it is started: work, hours, memory, disk and price, and whether it fits.

Speed and memory are measured for a few seconds in this process, on the device that the workers will have and beside as
many others as will share a machine like this one. Where the device is a GPU and there is none here, the time follows
from the multiply-accumulates at an assumed speed, and the plan says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ail_ray.errors import ConfigError, counted, one_line
from ail_ray.imaging.images import image_size
from ail_ray.learning.config import RunConfig
from ail_ray.learning.precision import Precision, fastest
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.learning.teachers import Teacher
from ail_ray.machine import cores, memory
from ail_ray.networks.code import label
from ail_ray.networks.counts import parameter_count
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import DataKey, EvaluationFile, Prepared, data_key
from ail_ray.runs.teacher_maps import UNUSABLE, TeacherMaps, planned_maps
from ail_ray.runs.trial import student_name
from ail_ray.sweeps.bill import BOOT, PULL, Bill
from ail_ray.sweeps.speed import Speed, assumed_speed, company, measured_speed, teacher_seconds
from ail_ray.sweeps.trials import proposals

START = 20.0  # seconds in which a slot's processes start, once; an elastic run has a slot of its own
TRIAL = 3.0  # seconds from a trial's last commit to the first step of the next one on the same slot
ROUND = 1.0  # seconds of a round for commits and pictures
ACTOR = 400_000_000  # bytes of a store actor's process beside the importance (Linux, torch for CPUs)
MEASURED_PAIR = 160 * 160  # pixels of the pair, about, that a teacher's speed is measured on
SHARE = 0.9  # of a core, left to a worker where workers take all cores: Ray's own processes need the rest


@dataclass(frozen=True, kw_only=True)
class TrialCost:
    """What one trial costs on its workers."""

    config: RunConfig
    crops: int
    error_passes: int
    seconds: float  # with those of its start
    start: float  # seconds before its first step; what its slot took to start is in it where the slot is its own
    memory: int  # bytes, a worker
    disk: int  # bytes, the run directory
    speed: Speed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a whole sweep costs."""

    trials: tuple[TrialCost, ...]
    teachers: dict[str, float]  # seconds of each teacher's pass over what it has not seen yet, on one worker
    at_once: int
    workers: int
    pixels: int
    pairs: int
    shards: int  # bytes
    evaluation_pixels: int
    store_memory: int  # bytes, a worker's store actor
    start: float  # seconds that each slot takes before its first trial
    grows: bool  # nodes come for the sweep, and go

    @property
    def seconds(self) -> float:
        """How long the whole sweep takes, if trials start in order and each as soon as there is room for it."""
        boot = BOOT + PULL if self.grows else 0.0
        free = [boot + self.start + sum(self.teachers.values()) / (self.at_once * self.workers)] * self.at_once
        for trial in self.trials:
            free[free.index(min(free))] += trial.seconds
        return max(free)

    @property
    def worker_hours(self) -> float:
        """Hours of workers that have something to do, the start of their slots included."""
        trials = (self.at_once * self.start + sum(trial.seconds for trial in self.trials)) * self.workers
        return (trials + sum(self.teachers.values())) / 3600


def plan_sweep(
    sweep: SweepConfig,
    inputs: Mapping[DataKey, Prepared],
    placement: Placement,
    teachers: Mapping[str, Teacher | None],
    *,
    max_workers: int | None,
    local: bool,
) -> Plan:
    """Count what there is to do, and measure how long it takes.

    Args:
        teachers: by their names, None for those that make no maps.
        max_workers: how many train workers there are at once; by default as many as this machine has room for.

    Raises:
        ConfigError: a worker needs more memory than this machine, or its GPU, has.
    """
    device = torch.device("cuda" if placement.gpu and torch.cuda.is_available() else "cpu")
    assumed = placement.gpu and device.type == "cpu"
    fast: Precision = "bf16" if assumed else fastest(device)
    torch.set_num_threads(placement.threads)
    workers = placement.most
    room = (
        torch.cuda.device_count() * int(1 / placement.gpus_per_worker + 1e-9)
        if device.type == "cuda"
        else cores() // placement.threads
    )
    configs, elastic = proposals(sweep), placement.fewest < placement.most
    at_once = min(len(configs), 1 if local else max(1, (max_workers or room) // workers))
    here = max(workers, min(room, at_once * workers))  # on a machine like this one
    beside = min(room, here) - 1 if device.type == "cpu" else 0
    share = SHARE if device.type == "cpu" and not local and at_once * workers >= room else 1.0
    of = {config: inputs[data_key(config)] for config in configs}
    precisions = {c: fast if c.precision == "auto" else c.precision for c in configs}
    largest = max(pair.pixels for prepared in of.values() for pair in prepared.corpus.pairs)
    evaluation = {key: sum(_pixels(file) for file in (*p.validation, *p.test)) for key, p in inputs.items()}
    speeds: dict[tuple[object, ...], Speed] = {}
    trials = []
    with company(0 if assumed else beside, configs[0], precisions[configs[0]]):
        for config, prepared in of.items():
            key = (
                config.network,
                config.student_width,
                config.student_depth,
                config.scale,
                config.loss,
                config.batch,
                config.crop,
                precisions[config],
            )
            if key not in speeds:
                speeds[key] = (
                    assumed_speed(config, workers)
                    if assumed
                    else measured_speed(config, workers, precisions[config], device, largest, share)
                )
            trials.append(_cost(config, prepared, speeds[key], workers, evaluation[data_key(config)], elastic))
        passes = dict[str, float]()
        lacking = dict[TeacherMaps, tuple[str, Teacher, Prepared]]()
        for config, prepared in of.items():
            if (teacher := teachers.get(config.teacher)) and "teacher" in config.reads:
                maps = planned_maps(teacher, config, prepared.data, precisions[config])
                lacking[maps] = label(config.teacher), teacher, prepared
        for maps, (name, teacher, prepared) in lacking.items():
            if pixels := _without_map(maps, prepared):
                pair = min(prepared.corpus.pairs, key=lambda pair: abs(pair.pixels - MEASURED_PAIR))
                try:
                    taken = teacher_seconds(teacher, pair, pixels, precisions[configs[0]], device, assumed)
                except UNUSABLE as error:
                    raise ConfigError([f"teacher {one_line(error)}"]) from None
                passes[name] = passes.get(name, 0.0) + taken
    first = of[configs[0]]
    plan = Plan(
        trials=tuple(trials), teachers=passes, at_once=at_once, workers=workers,
        pixels=first.corpus.pixels, pairs=len(first.corpus.pairs), evaluation_pixels=evaluation[data_key(configs[0])],
        shards=sum(3 * pair.pixels + 2 * pair.pixels // pair.scale**2 for pair in first.corpus.pairs),
        store_memory=ACTOR + 3 * 2 * max(pixels for prepared in of.values() for pixels in prepared.shard_pixels),
        start=0.0 if local or elastic else START, grows=max_workers is not None and not local,
    )  # fmt: skip
    if not assumed:
        _refuse_what_does_not_fit(plan, device, here if max_workers is None else 1, placement.gpus_per_worker)
    return plan


def describe_plan(
    plan: Plan, placement: Placement, price: float | None = None, head_price: float | None = None
) -> list[str]:
    """The plan as lines of a table.

    Args:
        price: what a worker, or its GPU, costs for an hour, in any currency.
        head_price: what the cluster's head costs for an hour.
    """
    trial, kind = plan.trials[0], "GPU" if placement.gpu else "worker"
    each = f"{counted(plan.workers, 'worker')} × {counted(placement.threads, 'thread')}"
    c = trial.config
    crops = sum(trial.crops for trial in plan.trials)
    passes = [f"{name} {_time(seconds)} on one worker" for name, seconds in plan.teachers.items()]
    rows = [
        ("trials", f"{len(plan.trials)}, {plan.at_once} at once, {each} each"),
        ("data", f"{counted(plan.pairs, 'pair')}, {plan.pixels / 1e6:.1f} M pixels in {counted(c.shards, 'shard')}; "
                 f"{plan.evaluation_pixels / 1e6:.1f} M pixels evaluated every round"),
        ("work", f"a trial: {counted(c.rounds + 1, 'round')} × {counted(c.epochs, 'epoch')}, "
                 f"{trial.crops / 1e6:.3g} M crops of {c.crop}×{c.crop}, error passes: {trial.error_passes}; "
                 f"{crops / 1e6:.3g} M crops in all"),
        ("teachers", ", ".join(passes) or "none to run"),
    ]  # fmt: skip
    for speed, config in {trial.speed: trial.config for trial in plan.trials}.items():
        student, per_second = student_name(config), config.batch / plan.workers / speed.step
        errors = 1e-6 / speed.error_pass
        rows.append(
            ("speed", f"{student}: {per_second:.0f} crops/s, {errors:.2f} M pixels/s of errors; {speed.origin}")
        )
    seconds = [trial.seconds for trial in plan.trials]
    share = placement.gpus_per_worker if placement.gpu else 1.0
    bill = Bill(
        unit=kind, work=plan.worker_hours * share, units=plan.at_once * plan.workers * share, seconds=plan.seconds,
        grows=plan.grows, price=price, head_price=head_price,
    )  # fmt: skip
    begun = (f"{START:g} s each for {plan.at_once} slots, then {TRIAL:g} s a trial" if plan.start
             else f"{trial.start:g} s a trial")  # fmt: skip
    bank, most = _bank(c) * plan.pixels / plan.workers, max(trial.memory for trial in plan.trials)
    rows += [
        ("time", f"{_time(min(seconds))} to {_time(max(seconds))} a trial, {_time(plan.seconds)} in all; "
                 f"{bill.work:.2f} {kind}-hours; starts, assumed: {begun}"),
        ("memory", f"{most / 2**30:.2f} GiB a worker, {bank / 2**30:.2f} of them its pixels; "
                   f"{plan.store_memory / 2**30:.2f} GiB its store actor"),
        ("disk", f"{max(trial.disk for trial in plan.trials) / 2**30:.2f} GiB a run; shared: shards "
                 f"{plan.shards / 2**30:.2f} GiB, maps of each teacher {2 * plan.pixels / 2**30:.2f} GiB"),
    ]  # fmt: skip
    rows += bill.rows()
    return [f"{name:10}{text}" for name, text in rows]


def _cost(
    config: RunConfig, prepared: Prepared, speed: Speed, workers: int, evaluation: int, elastic: bool
) -> TrialCost:
    crops, pixels = prepared.data.crops_per_epoch(config), prepared.corpus.pixels
    steps = config.trained_rounds * config.epochs * math.ceil(crops / config.batch)
    start = TRIAL + (START if elastic else 0.0)
    seconds = start + steps * speed.step + config.error_passes * pixels / workers * speed.error_pass
    seconds += (config.rounds + 1) * (evaluation / workers * speed.evaluation + ROUND)
    student = 4 * parameter_count(config.student())
    return TrialCost(
        config=config, crops=steps * config.batch, error_passes=config.error_passes, seconds=seconds,
        start=start, memory=speed.memory + int(_bank(config) * pixels / workers) + 6 * evaluation, speed=speed,
        disk=4 * 2 * pixels + 8 * student + (config.rounds + 1) * (student + 200_000),
    )  # fmt: skip


def _without_map(maps: TeacherMaps, prepared: Prepared) -> int:
    """How many pixels are in shards that a teacher has not seen yet."""
    paths = [maps.folder / shard.name for shard in prepared.data.shard_paths]
    return sum(pixels for path, pixels in zip(paths, prepared.shard_pixels, strict=True) if not path.exists())


def _bank(config: RunConfig) -> float:
    """Bytes of a bank for a pixel: 1 of luma, 2 of each input, 2 of importance, and 2 of a teacher's outputs."""
    return 3 + 2 / config.upsampling**2 + (2 if config.beta > 0 else 0)


def _refuse_what_does_not_fit(plan: Plan, device: torch.device, workers: int, share: float) -> None:
    """Raise ConfigError if a node like this one has too little memory for so many workers with a share of a GPU."""
    worker = max(trial.memory for trial in plan.trials)
    there = memory()
    needed = workers * (worker + plan.store_memory)
    problems = []
    if needed > there:
        problems.append(
            f"{counted(workers, 'worker')} with a store actor each would need {needed / 2**30:.1f} GiB of memory, this "
            f"machine has {there / 2**30:.1f}: more workers on more machines share the corpus, fewer downsizes make it "
            "smaller"
        )
    if device.type == "cuda":
        bank, has = (
            int(_bank(plan.trials[0].config) * plan.pixels / plan.workers),
            torch.cuda.get_device_properties(device).total_memory,
        )
        needed = bank + torch.cuda.max_memory_allocated(device)
        if needed > share * has:
            problems.append(
                f"a worker needs {needed / 2**30:.1f} GiB of GPU memory, its part of this GPU has "
                f"{share * has / 2**30:.1f}: more workers share the corpus, a smaller --batch takes less"
            )
    if problems:
        raise ConfigError(problems)


def _pixels(file: EvaluationFile) -> int:
    return sum(height * width for height, width in map(image_size, file.images.paths))


def _time(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{seconds / 60:.1f} min"
