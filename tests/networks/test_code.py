"""Code from outside: known by its source, loaded where it was sent, and never because a file says so."""

import inspect
import json
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import traceback
import types
from pathlib import Path
from typing import Any

import pytest

from ail_ray.errors import ConfigError
from ail_ray.learning.config import RunConfig, named_only
from ail_ray.networks.building import build_model
from ail_ray.networks.code import Code, Source, label, obtain, parameters_of, resolve
from ail_ray.networks.notebooks import CodeError

FILES = {
    "net.py": """
        from torch import nn
        from blocks import Skip
        import package.deep
        from package import other

        class Net(nn.Module):
            def __init__(self, width=4):
                super().__init__()
                self.skip = Skip(width + package.deep.MORE + other.MORE)

            def forward(self, x):
                from blocks import lately
                return lately(self.skip(x))
        """,
    "blocks.py": """
        from torch import nn

        class Skip(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.into, self.out = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)

            def forward(self, x):
                return x + self.out(self.into(x).relu())

        def lately(x):
            return x
        """,
    "package/__init__.py": "from .within import MORE",
    "package/within.py": "MORE = 1",
    "package/deep.py": "from . import within\nMORE = within.MORE",
    "package/other.py": "from space.inner import MORE",
    "space/inner.py": "MORE = 2",
    "unread.py": "raise RuntimeError('nobody imports this')",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


def refused(named: Any, kind: str = "network") -> str:
    with pytest.raises(ConfigError) as error:
        resolve(named, kind)
    (line,) = error.value.problems
    return line


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "#")


def test_a_file_comes_with_the_modules_beside_it_that_it_imports(folder: Path) -> None:
    code = resolve(f"{folder}/net.py:Net", "network")
    assert isinstance(code, Code)
    assert code.source.texts.keys() == {
        "net",
        "blocks",
        "package",
        "package.within",
        "package.deep",
        "package.other",
        "space",
        "space.inner",
    }
    model = build_model(code)
    assert model.skip.into.weight.shape[0] == 4 + 1 + 2  # type: ignore[union-attr]
    assert "blocks" not in sys.modules
    assert "net" not in sys.modules


def test_it_is_loaded_in_another_process_where_its_files_are_not(folder: Path) -> None:
    sent = folder / "sent.pickle"
    sent.write_bytes(pickle.dumps(RunConfig(network=resolve(f"{folder}/net.py:Net", "network"), scales=(2,))))
    for name in FILES:
        (folder / name).unlink()
    code = f"import pickle; print(pickle.load(open({str(sent)!r}, 'rb')).student().traits)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout == "Traits(upsampling=1, radius=2, scales=(), multiple=1)\n"


@pytest.mark.parametrize("edited", ["net.py", "blocks.py", "package/within.py"])
def test_one_character_makes_other_code_and_both_live_in_one_process(folder: Path, edited: str) -> None:
    before = resolve(f"{folder}/net.py:Net", "network")
    edit(folder / edited)
    after = resolve(f"{folder}/net.py:Net", "network")
    assert before != after
    assert label(before, 0) == label(after, 0) == "net.py:Net"
    assert obtain(before) is not obtain(after)
    assert obtain(before) is obtain(before)  # type: ignore[arg-type]
    edit(folder / "unread.py")
    assert resolve(f"{folder}/net.py:Net", "network") == after


def test_code_is_another_run_by_its_digest_alone(folder: Path, tmp_path: Path) -> None:
    def digest(name: str) -> str:
        config = RunConfig(network=resolve(name, "network"))
        return config.digest(corpus="c", evaluation=[], teacher="t")

    before = digest(f"{folder}/net.py:Net")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("net.py", "blocks.py", "package", "space"):
        (folder / name).rename(moved / name)
    assert digest(f"{moved}/net.py:Net") == before
    edit(moved / "blocks.py")
    assert digest(f"{moved}/net.py:Net") != before


def test_a_record_has_the_name_and_nothing_can_be_loaded_from_it(folder: Path) -> None:
    config = RunConfig(network=resolve(f"{folder}/net.py:Net", "network"))
    written = named_only(config)
    assert type(written.network) is str
    assert written == config
    assert json.loads(json.dumps(config.network)) == config.network
    with pytest.raises(ValueError, match=r"somebody's own network, whose code no file brings: name it, net\.py:Net$"):
        build_model(written.network)


def test_what_cannot_be_named_is_refused_in_a_line(folder: Path) -> None:
    (folder / "broken.py").write_text("def (")
    (folder / "above.py").write_text("from .. import x\nNet = 1")
    (folder / "needs.py").write_text("import no_such_package_anywhere\nNet = 1")
    (folder / "fails.py").write_text("1 / 0")
    assert refused("nowhere.py:Net") == "network nowhere.py:Net: no such file"
    assert refused(f"{folder}/net.py:Other").endswith("has no Other")
    assert refused("os:system") == "network os:system: has no source that a run could be known by"
    assert refused("no.such.module:Net") == "network no.such.module:Net: no such module (No module named 'no')"
    assert refused("nonesuch:Net").endswith("no such module; a file is named with its suffix, nonesuch.py:Net")
    assert "broken.py: cannot be read as Python" in refused(f"{folder}/broken.py:Net")
    assert "imports from outside its folder; name it as package.module:Name" in refused(f"{folder}/above.py:Net")
    assert "No module named 'no_such_package_anywhere' beside it, nor installed: a run would not know it" in refused(
        f"{folder}/needs.py:Net"
    )
    assert "(ZeroDivisionError: division by zero)" in refused(f"{folder}/fails.py:Net")


def test_a_module_that_is_missing_on_a_worker_is_named_with_the_machine() -> None:
    sent = Code.of("net.py:Net", Source("net", "Net", {"net": "import only_on_the_head\nclass Net: pass"}))
    with pytest.raises(CodeError) as error:
        obtain(pickle.loads(pickle.dumps(sent)))
    assert "No module named 'only_on_the_head'" in str(error.value)
    assert f" on {socket.gethostname()}: cannot be loaded" in str(error.value)


def test_what_a_run_would_not_know_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is found because one happens to stand in its folder is neither in the digest nor on a worker."""
    (folder / "nets").mkdir()
    (folder / "nets" / "own.py").write_text("import nets.more\nNet = print\n")
    (folder / "nets" / "more.py").write_text("")
    (folder / "yaml").mkdir()
    (folder / "yaml" / "mine.py").write_text("Net = print\n")
    monkeypatch.syspath_prepend(str(folder))
    assert "No module named 'nets' beside it, nor installed" in refused(f"{folder}/nets/own.py:Net")
    assert resolve("nets.own:Net", "network").source.texts.keys() == {"nets", "nets.own", "nets.more"}  # type: ignore[attr-defined]
    (folder / "exits.py").write_text("raise SystemExit(0)")
    assert "cannot be loaded (SystemExit: 0)" in refused(f"{folder}/exits.py:Net")
    (folder / "a.b.py").write_text("Net = print\nnumber = 3")
    assert label(resolve(f"{folder}/a.b.py:Net", "network"), 0) == "a.b.py:Net"
    assert refused(f"{folder}/a.b.py:number").endswith("its number is no class and no function")


def test_an_installed_package_counts_by_its_version() -> None:
    code = resolve("numpy.polynomial:Polynomial", "network")
    assert code == f"numpy.polynomial:Polynomial@{__import__('numpy').__version__}"
    assert obtain(pickle.loads(pickle.dumps(code))).__name__ == "Polynomial"
    code.source.__dict__["version"] = "0.1"  # type: ignore[attr-defined]
    stale = Code.of("numpy.polynomial:Polynomial", code.source)  # type: ignore[attr-defined]
    with pytest.raises(CodeError, match=r"its package is of version .*, not 0\.1"):
        obtain(stale)


def test_a_package_in_development_counts_by_its_content(tmp_path: Path) -> None:
    """As `pip install -e` leaves it: a package that is installed, whose files are those of somebody's checkout."""
    checkout, site = tmp_path / "checkout", tmp_path / "site"
    (checkout / "mine").mkdir(parents=True)
    (checkout / "mine" / "__init__.py").write_text("")
    (checkout / "mine" / "rules.py").write_text("from . import steps\ndef rule(p):\n    return p.lam * steps.STEP\n")
    information = site / "mine-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (information / "top_level.txt").write_text("mine\n")
    (information / "direct_url.json").write_text(json.dumps({"url": checkout.as_uri(), "dir_info": {"editable": True}}))
    (information / "RECORD").write_text("mine-1.0.dist-info/direct_url.json,,\n")
    names = []
    for step in (1, 2):
        (checkout / "mine" / "steps.py").write_text(f"STEP = {step}\n")
        script = "from ail_ray.networks.code import resolve; print(resolve('mine.rules:rule', 'rule'))"
        environment = {**os.environ, "PYTHONPATH": f"{site}:{checkout}:{Path(__file__).parents[2]}"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        names.append(done.stdout.strip())
    assert all(name.startswith("mine.rules:rule@") and not name.endswith("@1.0") for name in names)
    assert names[0] != names[1], "a module beside it was edited"


def notebook(monkeypatch: pytest.MonkeyPatch, text: str) -> dict[str, Any]:
    """What a cell of a notebook defines."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    name = f"<cell {len(text)}>"
    lines = textwrap.dedent(text)
    monkeypatch.setitem(inspect.linecache.cache, name, (len(lines), None, lines.splitlines(True), name))  # type: ignore[attr-defined]
    exec(compile(lines, name, "exec"), vars(main))
    return vars(main)


def test_an_object_of_a_notebook_is_known_by_its_source_and_what_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    made = notebook(
        monkeypatch,
        """
        import math
        from torch import nn
        from torch.nn import Conv2d as Layer
        WIDTH, NAMES = 3, ("a", "b")

        def half(x):
            return x / math.sqrt(4)

        class Base(nn.Module):
            pass

        class Net(Base):
            def __init__(self):
                super().__init__()
                self.layer = Layer(1, 1, WIDTH, padding=1)

            def forward(self, x):
                return half(self.layer(x)) if NAMES else x

        def rule(p, *, gamma: float = 0.5):
            return half(p.importance)
        """,
    )
    for name in ("Net", "rule"):
        code = resolve(made[name], "network")
        assert label(code, 0) == f"notebook:{name}"
        sent = pickle.loads(pickle.dumps(code))
        assert obtain(sent).__name__ == name
        assert obtain(sent) is not made[name]
    assert build_model(resolve(made["Net"], "network")).traits.radius == 1
    assert parameters_of(obtain(resolve(made["rule"], "rule"))) == {"gamma": 0.5}  # type: ignore[arg-type]


def test_what_a_notebook_cannot_give_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = notebook(
        monkeypatch,
        """
        TABLE = {"a": 1}
        def uses(p): return TABLE
        nameless = lambda p: p
        def makes():
            def inner(p): return p
            return inner
        """,
    )
    assert (
        refused(made["uses"], "rule")
        == "rule uses: uses TABLE, which is neither code nor a number; define it in a file"
    )
    assert "has no name of its own at the top of a module" in refused(made["nameless"], "rule")
    assert "has no name of its own at the top of a module" in refused(made["makes"](), "rule")
    assert refused(3, "rule") == "rule 3: is neither a name nor a class or function"
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("def lost(p): return p", scope)
    assert refused(scope["lost"], "rule").startswith("rule lost: has no source that a run could be known by")


def test_parameters_need_defaults_of_plain_types() -> None:
    def good(p: object, *, a: float = 0.5, b: str = "x", c: bool = True) -> None: ...
    def bad(p: object, *, a: float) -> None: ...
    def worse(p: object, *, a: list[int] = []) -> None: ...  # noqa: B006

    assert parameters_of(good) == {"a": 0.5, "b": "x", "c": True}
    for function in (bad, worse):
        with pytest.raises(CodeError, match="its parameter a needs a number or a text as default"):
            parameters_of(function)


def test_an_error_in_somebodys_code_shows_their_line(folder: Path) -> None:
    (folder / "wrong.py").write_text("def rule(p):\n    return p.nothing\n")
    rule = obtain(resolve(f"{folder}/wrong.py:rule", "rule"))  # type: ignore[arg-type]
    try:
        rule(1)
    except AttributeError:
        assert 'wrong.py", line 2, in rule\n    return p.nothing\n' in traceback.format_exc()
    else:
        pytest.fail("it has no such attribute")
