"""Rules of one's own and the examples: what they get, what they may return, and that they do what they say."""

from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.learning.config import RunConfig
from ail_ray.learning.losses import LOSSES
from ail_ray.learning.presets import preset
from ail_ray.learning.rules import (
    RETIRED,
    RULES,
    RuleError,
    first_importance,
    next_importance,
    problems_of,
    recipe_of,
    rule_function,
)
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.networks.architectures import NETWORKS
from ail_ray.networks.code import resolve
from ail_ray.runs.importance_store import ImportanceStore

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "rules.py"
ALL = ("exact", "hard_first", "uncertainty", "hard_examples", "without_outliers")
ERROR = (np.random.default_rng(0).random(20_000) ** 3).astype(np.float16)
ONES = np.ones(ERROR.size, np.float16)


def example(name: str) -> str:
    return resolve(f"{EXAMPLES}:{name}", "rule")


def own(folder: Path, text: str, name: str = "mine") -> str:
    (folder / "own.py").write_text("import numpy as np\nfrom ail_ray.learning.rules import rule\n" + text)
    return resolve(f"{folder}/own.py:{name}", "rule")


@pytest.mark.parametrize("name", ALL)
def test_an_example_can_be_used_at_once(name: str, tmp_path: Path) -> None:
    rule = example(name)
    assert problems_of(rule, (), 0.01, 0.15) == []
    config = RunConfig(rule=rule, teacher="none", rounds=2)
    store = ImportanceStore(UPath(tmp_path), config, None)
    store.initialise(0, 500)
    for t in (1, 2):
        store.update(t, 0, ERROR[:500])
        again = ImportanceStore(UPath(tmp_path / "again"), config, None)
        again.initialise(0, 500)
    assert store.read(2, 0).shape == (500,)
    assert np.isfinite(store.read(2, 0)).all()


def test_uncertainty_weighs_by_the_logarithm_of_the_teachers_error() -> None:
    first = first_importance(ERROR, mu0=0.01, alpha0=100.0, rule=example("uncertainty"))
    expected = 1 + np.log(np.maximum(ERROR.astype(np.float64), 1 / 255) * 255)
    np.testing.assert_allclose(first.astype(np.float64), expected, rtol=2e-3)
    assert first.min() == 1
    coarser = first_importance(
        ERROR, mu0=0.01, alpha0=100.0, rule=example("uncertainty"), arguments=(("least", 0.1),)
    )  # fmt: skip
    assert coarser.max() < first.max()
    later = next_importance(example("uncertainty"), first, ERROR, lam=0.15, arguments=(("least", 0.1),))
    np.testing.assert_array_equal(later, first)


def test_hard_examples_are_the_largest_half_and_a_random_tenth_the_same_when_asked_again() -> None:
    def mined(**place: int) -> np.ndarray:
        return next_importance(example("hard_examples"), ONES, ERROR, lam=0.15, **place)

    w = mined(seed=1, shard=2, round=3)
    hard = np.quantile(ERROR.astype(np.float32), 0.5) <= ERROR
    assert np.all(w[hard] == 1)
    assert w[~hard].mean() == pytest.approx(0.1, abs=0.01)
    np.testing.assert_array_equal(mined(seed=1, shard=2, round=3), w)
    for other in ({"seed": 2}, {"shard": 3}, {"round": 4}):
        assert np.any(mined(**{"seed": 1, "shard": 2, "round": 3, **other}) != w)


def test_loss_pruning_leaves_out_the_largest_twentieth() -> None:
    w = next_importance(example("without_outliers"), ONES, ERROR, lam=0.15)
    assert np.mean(w == 0) == pytest.approx(0.05, abs=0.002)
    assert ERROR[w == 0].min() > ERROR[w == 1].max()


def test_rules_that_went_are_refused_with_where_they_are_and_their_runs_are_read() -> None:
    for name in RETIRED:
        moved = f"--rule docs/examples/rules.py:{name.replace('-', '_')}"
        with pytest.raises(ConfigError) as refused:
            preset("demo").where(rule=("eq7", name))
        assert refused.value.problems == [f"rule {name} is an example now: {moved}"]
        assert RunConfig(rule=name).reads == recipe_of(name).reads
        assert recipe_of(name).reads == recipe_of(example(name.replace("-", "_"))).reads


def test_a_rule_may_lower_importance_and_begin_anywhere(tmp_path: Path) -> None:
    rule = own(
        tmp_path,
        "def begin(b, *, low: float = 0.2): return np.full(b.pixels, low + b.lam + b.place[1])\n"
        "@rule(reads={'lam'}, start=begin)\n"
        "def mine(p, *, low: float = 0.2, fall: float = 0.5): return p.importance * fall\n",
    )
    config = RunConfig(rule=rule, lam=0.1, teacher="none", arguments=(("rule.low", 0.4),))
    assert (config.initialisation, config.first_trained) == ("rule", 0)
    store = ImportanceStore(UPath(tmp_path / "run"), config, None)
    store.initialise(3, 10)
    np.testing.assert_allclose(store.read(0, 3), 3.5, rtol=1e-3)
    store.update(1, 3, np.zeros(10, np.float16))
    np.testing.assert_allclose(store.read(1, 3), 1.75, rtol=1e-3)


def test_what_is_no_importance_is_refused(tmp_path: Path) -> None:
    makers = {
        "short": "p.importance[:3]", "words": "np.array(['a'] * len(p.error))", "negative": "p.importance - 2",
        "large": "p.importance * 100", "none": "p.importance * np.nan", "fails": "p.nothing",
    }  # fmt: skip
    lines = "".join(f"def {name}(p): return {text}\n" for name, text in makers.items())
    said = {name: problems_of(own(tmp_path, lines, name), (), 0.01, 0.15)[0].partition(": ")[2] for name in makers}
    assert said == {
        "short": "makes float32 [3]; needed is [64] of numbers",
        "words": "makes <U1 [64]; needed is [64] of numbers",
        "negative": "importance must lie in [0, 16] for every pixel, it made -2 to -1",
        "large": "importance must lie in [0, 16] for every pixel, it made 0 to 100",
        "none": "importance must lie in [0, 16] for every pixel, it made nan to nan",
        "fails": "AttributeError: 'Subproblem' object has no attribute 'nothing'",
    }
    with pytest.raises(RuleError, match="importance must lie in"):
        next_importance(own(tmp_path, lines, "large"), ONES, ERROR, lam=0.15)


def test_parameters_of_a_rule_are_searched_and_controls_have_none(tmp_path: Path) -> None:
    rule = own(tmp_path, "def mine(p, *, gamma: float = 0.3, power: int = 2): return p.importance * gamma\n")
    sweep = SweepConfig.of(**{"rule": (rule, "uniform"), "rule.gamma": (0.3, 0.5), "teacher": "none"})
    assert [run.arguments for run in sweep.grid()] == [
        (("rule.gamma", 0.3), ("rule.power", 2)), (("rule.gamma", 0.5), ("rule.power", 2)), (),
    ]  # fmt: skip
    names = {run.digest(corpus="c", evaluation=[], teacher=None) for run in sweep.grid()}
    assert len(names) == 3
    with pytest.raises(ConfigError, match=r"rule\.beta: rule .*own\.py:mine@\w+, uniform has no such parameter"):
        SweepConfig.of(**{"rule": (rule, "uniform"), "rule.beta": 0.3})
    assert rule_function(rule).__name__ == "mine"


def test_a_parameter_has_the_type_of_its_default(tmp_path: Path) -> None:
    rule = own(
        tmp_path, "def mine(p, *, gamma: float = 0.3, kind: str = 'a', hard: bool = False): return p.importance\n"
    )
    runs = [SweepConfig.of(**{"rule": rule, "rule.gamma": value}).base for value in (1, 1.0)]
    assert runs[0] == runs[1]
    assert type(dict(runs[0].of("rule"))["gamma"]) is float
    for value, said in (
        ("x", "rule.gamma must be of type float, got 'x'"), (True, "rule.gamma must be of type float, got True"),
        (float("nan"), "rule.gamma must be finite, got nan"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            SweepConfig.of(**{"rule": rule, "rule.gamma": value})
        assert refused.value.problems == [said]


def test_our_own_functions_are_known_by_their_names() -> None:
    sweep = SweepConfig.of(rule=RULES["uniform"], loss=LOSSES["huber"], network=NETWORKS["drrn"])
    assert (sweep.base.rule, sweep.base.loss, sweep.base.network) == ("uniform", "huber", "drrn")
    assert sweep.base.unweighed
