"""The READMEs: commands, programs, links, generated tables, and the limits of a front page."""

import re
import shlex

import pytest
import tyro
from helpers.tiny import ROOT, load_script, small_classic, status

from ez_jax import reference
from ez_jax.agent.diagnostics import health_table
from ez_jax.config import replace, validate
from ez_jax.presets import PAPER
from ez_jax.runner import train

OWN = ("ez_jax", "experiments", "notebooks", "tests")  # not those of an environment beside them
READMES = [ROOT / "README.md", *sorted(p for name in OWN for p in (ROOT / name).rglob("README.md"))]
READMES.append(ROOT / "experiments" / "clusters.md")
FRONT, COMMANDS, INSIDE = (ROOT / name / "README.md" for name in (".", "experiments", "ez_jax"))
RESULTS = ROOT / "experiments" / "results"


def commands(path):
    """The words of each `python experiments/<script>.py ...` of a page, in blocks or lines, without
    what starts it on several hosts.
    """
    text = path.read_text().replace("\\\n", " ")
    text = re.sub(
        r"^python -m ez_jax.launch (?:--\S+ )*|^srun (?:--\S+ )*(?=python )", "", text, flags=re.M
    )
    text = re.sub(r"^(?=experiments/)", "python ", text, flags=re.M)
    found = re.findall(r"^(?:pip .*&& |JAX_\S+ )*(python experiments/.*)$", text, re.M)
    found += re.findall(r"`(python experiments/[^`]*)`", text)
    for line in found:
        line = re.split(r"\s+#", line)[0]
        if "<" not in line:
            yield shlex.split(line)[1:]


ALL = {" ".join(words): words for path in READMES for words in commands(path)}


@pytest.mark.parametrize("words", ALL.values(), ids=ALL)
def test_every_command_is_one(words):
    """Options and values are taken, and the config is valid; the work is tested elsewhere."""
    path, *argv = words
    assert (ROOT / path).exists()
    script = (
        load_script(path.removesuffix(".py").rpartition("/")[2]) if "peer" not in path else None
    )
    if script is None:
        return  # needs PyTorch
    if hasattr(script, "parse"):
        args = script.parse(argv)
        validate(args.config)
    elif path.endswith("suite.py"):
        assert script.main([*argv, "--dry-run"]) == 0
    else:
        tyro.cli(script.Args, args=argv)


def test_commands_of_clusters_keep_the_updates_of_their_preset():
    text, found = (ROOT / "experiments" / "clusters.md").read_text(), 0
    for line in re.findall(
        r"python experiments/atari100k.py ([^\n\"`]*--preset=paper[^\n\"`]*)", text
    ):
        config = load_script("atari100k").parse(shlex.split(line)).config
        assert config.total_updates == PAPER.total_updates, line
        found += config.env.num_envs > PAPER.env.num_envs
    assert found == 2


def test_there_are_commands():
    assert len(ALL) > 25


def programs():
    return re.findall(r"```python\n(.*?)```", FRONT.read_text(), re.S)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(2))
def test_programs_of_the_front_page(index, tmp_path, monkeypatch):
    """As printed, but for the size of the run and its folder."""
    started, whole = [], train.run

    def small_run(config, workdir, **options):
        validate(config)
        started.append(config)
        small = replace(small_classic(config.env.id), env__stack=config.env.stack)
        return whole(small, tmp_path / workdir, evaluate_after=False, **options)

    monkeypatch.setattr(train, "run", small_run)
    assert len(programs()) == 2
    exec(programs()[index], {})
    (config,) = started
    assert config.env_steps <= 12_000
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "result.json").exists()


def test_generated_tables_are_up_to_date():
    def between(path, name):
        return re.search(f"<!-- {name} -->\n(.*)\n<!-- /{name} -->", path.read_text(), re.S)[1]

    assert between(COMMANDS, "health") == health_table()
    assert between(INSIDE, "settings") == reference.settings_table()


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_pictures_are_there(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_places_that_are_named_exist():
    """Files and functions in the table of ideas."""
    table = INSIDE.read_text().split("## Idea, place, switch")[1].split("## ")[0]
    places = re.findall(r"`((?:agent|networks)/\w+)(?:\.(\w+)|: (\w+))?", table)
    assert len(places) > 15
    for file, function, name in places:
        source = (ROOT / "ez_jax" / f"{file}.py").read_text()
        assert (
            f"def {function or name}(" in source
            or f"class {function or name}(" in source
            or not (function or name)
        ), (file, function or name)


def test_a_front_page_is_read_in_two_minutes():
    assert len(FRONT.read_text().splitlines()) <= 150


def test_results_keep_their_limits():
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert len(files) <= 150 and sum(path.stat().st_size for path in files) <= 8e6
    for study in (path for path in RESULTS.iterdir() if path.is_dir()):
        text = (study / "README.md").read_text()
        for part in ("**Question.**", "**Command.**", "**Finding.**"):
            assert part in text, study


@pytest.mark.parametrize("script", ["atari100k", "classic", "dmc100k"])
def test_help_fits_a_screen(script, capsys):
    assert status(script, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 55 and max(map(len, lines)) <= 100
    shown = "\n".join(lines)
    assert "--import " in shown and "--env.action-slots=0" in shown
    assert "--search.num-simulations=50" in shown and "--help-all lists the other" in shown
    assert status(script, "--help-all") == 0
    everything = capsys.readouterr().out
    assert "--target.prefix-horizon" in everything and len(everything.splitlines()) > 100
