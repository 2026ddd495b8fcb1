"""Configurations: refused with all their problems, every combination once, a digest of what changes the result."""

import inspect
import itertools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from ail_ray.errors import ConfigError
from ail_ray.files import digest_of
from ail_ray.learning.config import RunConfig
from ail_ray.learning.losses import LOSSES
from ail_ray.learning.presets import PRESETS, demo, mini, paper, preset
from ail_ray.learning.rules import RULES
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.learning.told import parameters
from ail_ray.networks.architectures import NETWORKS

OTHER: dict[str, Any] = {
    "scales": (2, 3), "downsizes": (1.0,), "depth": 19, "mu0": 0.02, "alpha0": 50.0, "error_unit": "absolute",
    "error_factor": 2.0, "epochs": 49, "crops": 1000, "crop": 40, "batch": 64, "optimizer": "adam",
    "learning_rate": 0.2, "schedule": "cosine", "weight_decay": 0.0, "clip": 0.3, "shards": 8, "precision": "bf16",
    "rho": 0.75, "width": 14, "lam": 0.1, "teacher": "random", "rule": "uniform", "seed": 1, "restart": "never",
    "start": "weights.safetensors", "init": "identity", "loss": "absolute",
}  # fmt: skip
"""Another value for everything that changes the result."""

WITHOUT_EFFECT: dict[str, Any] = {"rounds": 20, "train": ("x",), "validation": (), "test": ("y",)}
"""Counted by contents, or extended."""


def digest(config: RunConfig, **changed: Any) -> str:
    return config.digest(**({"corpus": "c", "evaluation": ["e", "f"], "teacher": "t"} | changed))


def problems(kind: Callable[..., object], **values: Any) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        kind(**values)
    assert str(refused.value) == "\n".join(refused.value.problems)
    return refused.value.problems


def test_all_problems_are_said_at_once() -> None:
    assert problems(RunConfig, scales=(2, 5), crop=4, rho=1.0, seed=-1, learning_rate=0.0) == [
        "scales must be 1, 2, 3 or 4, got 2 5",
        "crop must be at least 8 pixels, got 4",
        "learning-rate must be positive, got 0.0",
        "rho must be in [0, 1), got 1.0",
        "seed must be 0 or more, got -1",
    ]
    assert problems(SweepConfig.of, train=(), rho=(0.5, 1.5), lam=(0.0,), seed=(), samples=0) == [
        "seed must have at least one value",
        "train must name at least one set, got nothing",
        "lam must be positive, got 0.0",
        "rho must be in [0, 1), got 1.5",
        "samples must be at least 1, got 0",
    ]


def test_width_and_rho_are_two_ways_to_say_one_thing() -> None:
    assert problems(SweepConfig.of, width=(13, 16), rho=(0.5,)) == [
        f"width is instead of rho: give one, got width {width} and rho 0.5" for width in (13, 16)
    ]
    for rho in ({}, {"rho": 0.8}):  # none, or what it is when nobody says
        assert [run.student_width for run in SweepConfig.of(width=(13, 16), **rho).grid()] == [13, 16]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scales", ()), ("downsizes", (0.0,)), ("downsizes", (1.1,)), ("network", "edsr"), ("depth", 1),
        ("mu0", -0.1), ("mu0", float("nan")), ("alpha0", 0.0), ("alpha0", float("inf")), ("error_factor", 0.0),
        ("rounds", -1), ("epochs", 0), ("crops", 0), ("crop", 7), ("batch", 0), ("learning_rate", float("nan")),
        ("weight_decay", -1e-4), ("clip", 0.0), ("shards", 0), ("shards", 100_001), ("rho", -0.1),
        ("rho", float("nan")), ("width", 0), ("lam", float("inf")), ("lam", float("nan")),
        ("rule", "eq9"), ("seed", 2**63), ("beta", -0.1), ("beta", float("nan")),
    ],
)  # fmt: skip
def test_each_bad_value_is_one_line_that_names_it(field: str, value: Any) -> None:
    (line,) = problems(RunConfig, **{field: value})
    assert line.startswith(field.replace("_", "-"))
    assert str(value[0] if isinstance(value, tuple) and value else value) in line or value == ()


def test_each_network_has_its_own_conditions() -> None:
    assert problems(RunConfig, network="drrn", depth=9) == ["depth must be even and lie in 4..998, got 9"]
    assert problems(RunConfig, network="fsrcnn", scales=(2, 3)) == [
        "scales must be one for fsrcnn, which upsamples by itself, got 2 3"
    ]
    assert problems(RunConfig, network="fsrcnn", scales=(3,)) == [
        "crop must be a multiple of the scale for fsrcnn, got 41: pass --crop 42"
    ]
    student = RunConfig(network="fsrcnn", scales=(3,), crop=42, rho=0.0).student()
    assert vars(student.made) == {"network": "fsrcnn", "width": 56, "depth": 8, "scale": 3}
    assert RunConfig(network="drrn").student().made.width == 25
    assert problems(RunConfig, network="abpn", scales=(3,)) == [
        "crop must be a multiple of the scale for abpn, got 41: pass --crop 42"
    ]
    assert len({digest(RunConfig(network=name, width=8, depth=8, crop=42)) for name in NETWORKS}) == 4


def test_a_search_that_compares_needs_validation_images() -> None:
    for values in ({"asha": True}, {"search": "optuna"}):
        (line,) = problems(SweepConfig.of, validation=(), **values)
        assert "--validation" in line


def test_the_grid_has_every_combination_once() -> None:
    sweep = SweepConfig.of(rho=(0.75, 0.8), lam=(0.1, 0.15), teacher=("vdsr", "none"), seed=(0, 1), rounds=3)
    runs = list(sweep.grid())
    assert len(runs) == len(set(runs)) == 16
    assert {(run.rho, run.lam, run.teacher, run.seed) for run in runs} == {
        *itertools.product((0.75, 0.8), (0.1, 0.15), ("vdsr", "none"), (0, 1))
    }
    assert {run.rounds for run in runs} == {3}
    assert {run.width for run in SweepConfig.of(width=(13, 16)).grid()} == {13, 16}
    assert [run.rho for run in SweepConfig.of(rho=(0.79, 0.8, 0.75)).grid()] == [0.79, 0.75], "of one width once"


def test_any_field_may_have_several_values() -> None:
    sweep = SweepConfig.of(learning_rate=(1e-3, 3e-3), batch=[16, 32], scales=[(2,), (2, 3)], train=("T91",), lam=0.1)
    assert sweep.axes == {"scales": ((2,), (2, 3)), "batch": (16, 32), "learning_rate": (1e-3, 3e-3)}
    found = [(run.scales, run.batch, run.learning_rate) for run in sweep.grid()]
    assert found == [*itertools.product(((2,), (2, 3)), (16, 32), (1e-3, 3e-3))]
    assert {(run.train, run.lam) for run in sweep.grid()} == {(("T91",), 0.1)}
    narrowed = sweep.where(batch=16, seed=(0, 1))
    assert (list(narrowed.axes), narrowed.base.batch) == (["scales", "learning_rate", "seed"], 16)
    shown = parameters(sweep.base, sweep.axes)
    assert (shown["scales"], shown["batch"], shown["lam"]) == ("2", 16, 0.1)
    with pytest.raises(TypeError, match="no such field: depht"):
        SweepConfig.of(depht=3)


def test_a_sweep_is_known_by_the_digest_that_it_always_had() -> None:
    sweep = SweepConfig.of(width=(8, 13), lam=(0.1, 0.15), rule=("eq7", "uniform"), rounds=3)
    assert digest_of(sweep.plain) == "77b5089c8277f063"
    assert digest_of(SweepConfig.of().plain) == "c0d83cebc192298f"


def test_the_control_is_run_once_for_every_lam_and_teacher() -> None:
    sweep = SweepConfig.of(
        rho=(0.75, 0.8), lam=(0.1, 0.15), teacher=("vdsr", "none"), rule=("eq7", "uniform"), seed=(0, 1)
    )
    runs = list(sweep.grid())
    controls = [run for run in runs if run.rule == "uniform"]
    assert len(runs) == 16 + 4
    assert len({(run.rho, run.seed) for run in controls}) == len(controls) == 4
    assert {parameters(run)["lam"] for run in controls} == {parameters(run)["teacher"] for run in controls} == {None}


def test_every_field_is_judged() -> None:
    elsewhere = {"network", "beta", "init_noise", "arguments"}
    data = {"degrade", "degrade_seed", "copies", "train_lr", "validation_lr", "test_lr"}
    assert {field.name for field in fields(RunConfig)} == OTHER.keys() | WITHOUT_EFFECT.keys() | elsewhere | data


def test_how_small_pictures_are_made_changes_the_digest() -> None:
    drawn = RunConfig(degrade="noise=5")
    others = [RunConfig(), replace(drawn, degrade="noise=6"), replace(drawn, copies=2), replace(drawn, degrade_seed=1)]
    assert len({digest(each) for each in (drawn, *others)}) == 5
    given = {"train_lr": ("small", "other"), "downsizes": (1.0,)}
    assert digest(RunConfig(**given)) == digest(RunConfig(downsizes=(1.0,))), "the corpus tells"


def test_the_digest_changes_with_all_that_changes_the_result() -> None:
    config = RunConfig()
    others = {name: digest(replace(config, **{name: value})) for name, value in OTHER.items()}
    others |= {name: digest(config, **{name: "other"}) for name in ("corpus", "teacher")}
    others["evaluation"] = digest(config, evaluation=["f", "e"])
    names = [*others, "itself"]
    assert len({*others.values(), digest(config)}) == len(names)
    assert digest(RunConfig()) == digest(config)


def test_the_digest_does_not_change_with_what_does_not() -> None:
    config = RunConfig()
    for name, value in WITHOUT_EFFECT.items():
        assert digest(replace(config, **{name: value})) == digest(config), name
    for same in ({"width": 13}, {"rho": 0.797}, {"depth": 20}):
        assert digest(replace(config, **same)) == digest(config), same


def test_a_control_does_not_depend_on_what_its_rule_does_not_read() -> None:
    control = RunConfig(rule="uniform")
    for name in ("lam", "mu0", "alpha0", "error_unit", "error_factor", "teacher"):
        assert digest(replace(control, **{name: OTHER[name]})) == digest(control), name
    for name in ("batch", "seed", "rho", "epochs"):
        assert digest(replace(control, **{name: OTHER[name]})) != digest(control), name
    assert digest(control, teacher=None) == digest(control, teacher="other")


@pytest.mark.parametrize(
    ("rule", "unread"),
    [
        ("eq7", set()), ("reference", {"error_unit", "error_factor"}),
        ("fixed", {"lam", "error_unit", "error_factor"}),
        ("uniform", {"lam", "teacher", "mu0", "alpha0", "error_unit", "error_factor"}),
    ],
)  # fmt: skip
def test_the_digest_leaves_out_what_a_rule_does_not_read(rule: str, unread: set[str]) -> None:
    config = RunConfig(rule=rule)
    for name in ("lam", "teacher", "mu0", "alpha0", "error_unit", "error_factor"):
        assert (digest(replace(config, **{name: OTHER[name]})) == digest(config)) == (name in unread), name
    assert {name for name in ("lam", "teacher") if parameters(config)[name] is None} == unread & {"lam", "teacher"}
    assert len({digest(RunConfig(rule=other)) for other in RULES}) == len(RULES)


def test_the_help_names_every_rule_and_every_loss() -> None:
    assert [rule for rule in (*RULES, *LOSSES) if f"`{rule}`" not in inspect.getsource(RunConfig)] == []


def test_runs_of_older_versions_keep_their_names() -> None:
    assert digest(RunConfig()) == "9f770c6df28bd51c"
    assert digest(RunConfig(teacher="none")) == "4ecc2ea8bf1c9da9"
    assert digest(RunConfig(rule="uniform")) == "0aa63ae854c07127"


def test_a_field_that_was_added_enters_a_name_only_where_it_differs_from_what_was_before() -> None:
    assert digest(RunConfig(init="he")) == digest(RunConfig())
    names = {digest(RunConfig(init="identity", init_noise=noise)) for noise in (0.25, 0.1)}
    assert len(names | {digest(RunConfig())}) == 3
    assert problems(RunConfig, init_noise=0.1) == ["init-noise goes with init identity, got init he"]
    assert problems(RunConfig, init="identity", init_noise=0.0) == ["init-noise must be positive, got 0.0"]


def test_given_weights_are_not_drawn() -> None:
    given = RunConfig(start="weights.safetensors")
    assert digest(replace(given, init="identity", init_noise=0.1), start="w") == digest(given, start="w")
    assert [c.redraws for c in (RunConfig(), RunConfig(init="identity"), replace(given, init="identity"))] == [
        False, True, False,
    ]  # fmt: skip


def test_the_first_weights_follow_from_seed_and_attempt() -> None:
    def drawn(seed: int, attempt: int = 0) -> torch.Tensor:
        return RunConfig(init="identity", depth=3, seed=seed).drawn(attempt).state_dict()["layers.1.weight"]

    torch.manual_seed(0)
    he = RunConfig(depth=3).student().state_dict()["layers.1.weight"]
    torch.testing.assert_close(drawn(0), 0.25 * he + torch.nn.init.dirac_(torch.empty_like(he)), rtol=0, atol=1e-7)
    asked = list(itertools.product((0, 1), (0, 1, 2)))
    draws = [drawn(*each) for each in asked]
    assert all(torch.equal(draw, drawn(*each)) for draw, each in zip(draws, asked, strict=True)), "whenever it is asked"
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(draws, 2))


def test_one_schedule_spans_a_fixed_number_of_rounds() -> None:
    config = RunConfig(restart="never")
    assert digest(config) != digest(replace(config, rounds=11)) != digest(RunConfig(rounds=11))
    assert digest(RunConfig()) == digest(RunConfig(rounds=11))


def test_distillation_reads_the_teacher_and_nothing_else() -> None:
    config = RunConfig(rule="uniform", beta=0.1)
    assert config.initialisation == "ones"
    assert len({digest(config), digest(replace(config, beta=0.2)), digest(config, teacher="u")}) == 3
    assert digest(replace(config, lam=0.3, mu0=0.5)) == digest(config)
    assert (parameters(config)["teacher"], parameters(config)["lam"]) == ("vdsr", None)
    sweep = SweepConfig.of(rule=("uniform",), beta=0.1, lam=(0.1, 0.15), teacher=("vdsr", "mine"))
    assert [run.teacher for run in sweep.grid()] == ["vdsr", "mine"]


def test_distillation_is_refused_without_uniform_importance_or_a_teacher() -> None:
    assert problems(RunConfig, beta=0.1, teacher="random") == [
        "beta goes with rule uniform only, got rule eq7",
        "beta needs a teacher with weights, got teacher random",
    ]
    assert problems(SweepConfig.of, beta=0.1, rule=("uniform", "reference"), teacher=("vdsr", "none")) == [
        "beta goes with rule uniform only, got rule reference",
        "beta needs a teacher with weights, got teacher none",
    ]


def test_importance_that_stays_0_is_refused() -> None:
    found = ["rule fixed keeps the importance of round 0, which teacher none makes 0: it would train nothing"]
    assert problems(RunConfig, rule="fixed", teacher="none") == found
    assert problems(SweepConfig.of, rule=("eq7", "fixed"), teacher=("vdsr", "none")) == found


def test_the_rounds_that_train() -> None:
    counts = {teacher: RunConfig(rounds=3, teacher=teacher).trained_rounds for teacher in ("vdsr", "random", "none")}
    assert counts == {"vdsr": 4, "random": 4, "none": 3}
    assert RunConfig(rounds=3, teacher="none", rule="uniform").trained_rounds == 4


def test_the_start_counts_by_content() -> None:
    config = RunConfig(start="a.safetensors")
    assert digest(config, start="1") == digest(replace(config, start="b.safetensors"), start="1")
    assert len({digest(config, start="1"), digest(config, start="2"), digest(RunConfig())}) == 3


def test_where_the_importance_starts() -> None:
    starts = {
        (t, r): RunConfig(teacher=t, rule=r).initialisation
        for t in ("vdsr", "none", "random")
        for r in ("eq7", "uniform")
    }
    assert starts == {
        ("vdsr", "eq7"): "teacher", ("none", "eq7"): "zeros", ("random", "eq7"): "random",
        ("vdsr", "uniform"): "ones", ("none", "uniform"): "ones", ("random", "uniform"): "ones",
    }  # fmt: skip


def test_presets_are_what_they_say() -> None:
    assert {"demo": demo, "mini": mini, "paper": paper} == PRESETS
    assert demo().base.train == ("sample",)
    assert len(list(demo().grid())) == 3
    assert len(list(mini().grid())) == len(list(paper().grid())) == 2
    assert [sweep().base.init for sweep in (demo, mini, paper)] == ["identity", "identity", "he"]
    run = next(iter(paper().grid()))
    paper_values = {
        "student_width": 13, "student_depth": 20, "rounds": 10, "epochs": 50, "batch": 128, "crop": 41, "lam": 0.15,
        "mu0": 0.01, "alpha0": 100, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "step",
        "weight_decay": 1e-4, "clip": 0.4, "downsizes": (1.0, 0.7, 0.5), "validation": (),
    }  # fmt: skip
    assert {name: getattr(run, name) for name in paper_values} == paper_values


def test_a_network_has_its_own_say_in_a_preset() -> None:
    for name, network in itertools.product(PRESETS, ("vdsr", "drrn")):
        assert preset(name).where(network=network).base == PRESETS[name]().where(network=network).base
    for scale in (2, 3, 4):
        small = preset("mini").where(network="fsrcnn", scales=(scale,))
        assert [(run.student_width, run.crop) for run in small.grid()] == [(56, 48)] * 2, "it is small by design"
        phone = preset("mini").where(network="abpn", scales=(scale,))
        assert [(run.student_width, run.student_depth, run.crop) for run in phone.grid()] == [(28, 7, 48)] * 2
    assert preset("mini").where(network="fsrcnn", width=30).base.student_width == 30, "a width overrides its rho"
    several = preset("mini").where(network=("vdsr", "fsrcnn"), rule="eq7")
    assert [(run.network, run.student_width, run.crop) for run in several.grid()] == [
        ("vdsr", 13, 41),
        ("fsrcnn", 56, 48),
    ]
    with pytest.raises(ConfigError, match="crop must be a multiple of the scale for fsrcnn, got 41: pass --crop 42"):
        preset("mini").where(network="fsrcnn", crop=41)  # what is given wins
