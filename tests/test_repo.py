"Invariants of the repository: what must hold of every notebook, module and file."
import ast, json, re, shutil, subprocess, sys, tomllib
from contextlib import nullcontext
from pathlib import Path
import pytest, yaml
from PIL import Image
from conftest import ROOT
from deepfake_nb.core import ConsentError, DataError, imported_modules, load_profile, profile_names
from deepfake_nb.provenance import verify
from deepfake_nb.report import check_pictures

BIN = Path(sys.executable).parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
FIVE = ["profile", "data", "out", "seed", "device"]


def cells(path): return json.loads(path.read_text())["cells"]
def code(path): return ["".join(c["source"]) for c in cells(path) if c["cell_type"] == "code"]
def module(path): return next(m[1] for s in code(path) if (m := re.search(r"^#\| default_exp (\S+)", s, re.M)))
def tracked(): return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


@pytest.fixture(scope="module")
def numbers(): return {module(p): p.name.split("_")[0] for p in NOTEBOOKS}


def test_clean_and_export_change_nothing(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".cache", ".git", "reports"))
    before = {p: p.read_bytes() for p in [*copy.glob("nbs/*.ipynb"), *copy.glob("deepfake_nb/**/*.py")]}
    for command in ("nbdev-clean", "nbdev-export"): subprocess.run([BIN / command], cwd=copy, check=True, capture_output=True)
    after = {p: p.read_bytes() for p in [*copy.glob("nbs/*.ipynb"), *copy.glob("deepfake_nb/**/*.py")]}
    assert sorted(p.name for p in before.keys() ^ after.keys()) == []
    assert [p.name for p in before if before[p] != after[p]] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_numbered_after_its_module(path):
    assert path.stem.split("_", 1)[1] == module(path)
    first = cells(path)[0]
    assert first["cell_type"] == "markdown" and re.match(r"# .+\n+> .+", "".join(first["source"])), "title and promise come first"


def test_imports_point_only_to_lower_numbers(numbers):
    package = ROOT / "deepfake_nb"
    for name, number in numbers.items():
        higher = [m for m in imported_modules((package / name.replace(".", "/")).with_suffix(".py")) if numbers[m] >= number]
        assert not higher, f"{name} imports {higher}"


def test_examples_import_only_lower_numbers_too(numbers):
    for path in NOTEBOOKS:
        used = {m for s in code(path) for m in re.findall(r"^\s*(?:from|import) deepfake_nb\.([\w.]+)", s, re.M)}
        assert not [m for m in used if numbers[m] >= numbers[module(path)] and m != module(path)], path.name


def test_no_orphan_modules(numbers):
    package = ROOT / "deepfake_nb"
    found = {".".join(p.relative_to(package).with_suffix("").parts) for p in package.rglob("*.py") if not p.name.startswith("_")}
    assert found == set(numbers)


def test_chapters_have_the_five_parameters_and_a_place_in_every_profile():
    chapters = {module(p): [c for c in cells(p) if "parameters" in c["metadata"].get("tags", [])] for p in NOTEBOOKS}
    chapters = {name: found for name, found in chapters.items() if found}
    assert len(chapters) >= 2
    for name, found in chapters.items():
        assert len(found) == 1 and re.findall(r"^(\w+) =", "".join(found[0]["source"]), re.M) == FIVE, name
    for profile in profile_names(): assert set(load_profile(profile)["chapters"]) == set(chapters), profile


def test_unknown_key_of_a_profile_is_an_error(tmp_path, monkeypatch):
    import deepfake_nb.core as core
    shutil.copytree(ROOT / "deepfake_nb" / "profiles", tmp_path / "profiles")
    smoke = yaml.safe_load((tmp_path / "profiles" / "smoke.yml").read_text())
    smoke["chapters"]["detect.cnn"]["epoch"] = 3
    (tmp_path / "profiles" / "mine.yml").write_text(yaml.safe_dump(smoke))
    monkeypatch.setattr(core, "PACKAGE", tmp_path)
    with pytest.raises(DataError, match="unknown or missing epoch"): load_profile("mine")


def test_numbers_in_the_readme_are_those_of_the_expected_metrics():
    *body, last = ast.parse(next(s for s in code(ROOT / "nbs" / "index.ipynb") if "metrics.json" in s)).body
    names = {}
    exec(compile(ast.Module(body, []), "index", "exec"), names)
    table = eval(compile(ast.Expression(last.value), "index", "eval"), names).data.strip()
    assert table in (ROOT / "README.md").read_text(), "run nbs/index.ipynb, then make README.md"


def test_no_media_and_nothing_large_in_git():
    media = {".mp4", ".mpg", ".avi", ".mov", ".mkv", ".webm", ".wav", ".flac", ".mp3", ".m4a", ".ogg", ".jpg", ".jpeg", ".webp", ".gif"}
    files = [ROOT / f for f in tracked() if (ROOT / f).exists()]
    weights = [f for f in files if f.parent.name == "weights"]
    assert sum(f.stat().st_size for f in weights) < 25 * 2**20
    kept = [f for f in files if f.is_relative_to(ROOT / "reports" / "full")]
    assert sum(f.stat().st_size for f in kept) < 15 * 2**20
    heard = [f for f in files if f.suffix.lower() in media]
    assert set(heard) <= {*kept, *files_in_images(files)} and all(all(verify(f).has[w] for w in ("mark", "credentials")) for f in heard), "only what we generated, marked and signed"
    assert not [f for f in files if f not in [*weights, *kept] and f.stat().st_size > 3 * 2**20]


def files_in_images(files):
    return [f for f in files if f.parent == ROOT / "nbs" / "images"]


def test_kept_pictures_say_who_is_seen():
    folders = [p for p in (ROOT / "reports" / "full").iterdir() if p.is_dir()]
    assert len(folders) > 5
    for folder in folders:
        check_pictures(folder)


@pytest.mark.parametrize("chapter, shows, kept", [("generate.x", "actors", False), ("generate.x", "drawings", True), ("data.x", "actors", True), ("loop", "people who agreed", False)])
def test_whoever_is_seen_in_a_generator_chapter_is_marked(tmp_path, chapter, shows, kept):
    folder = tmp_path / chapter
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "faces.png")
    (folder / "provenance.json").write_text(json.dumps(dict(figures={"faces.png": dict(pixels="", timing=False, shows=shows)})))
    with nullcontext() if kept else pytest.raises(ConsentError, match="it is not kept"):
        check_pictures(folder)


def test_readme_is_made_from_the_index_notebook(tmp_path):
    for name in ("Makefile", "nbs/index.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(BIN.parent)
    recipe = subprocess.run(["make", "--always-make", "--old-file", ".venv/.installed", "README.md"], cwd=tmp_path, capture_output=True, text=True)
    assert recipe.returncode == 0, recipe.stderr
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text(), "run make nb"


def test_workflows_call_the_make_targets():
    steps = {p.stem: [s.get("run", "") for j in yaml.safe_load(p.read_text())["jobs"].values() for s in j["steps"]] for p in (ROOT / ".github/workflows").glob("*.yml")}
    assert set(steps) == {"ci", "report", "docs"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for run in filter(None, sum(steps.values(), [])):
        assert run == ".ci/run" or run.split()[0] == "make" and run.split()[1] in targets, run


def test_every_dependency_is_locked():
    from configparser import ConfigParser
    lists = ConfigParser()
    lists.read(ROOT / "settings.ini")
    wanted = {re.split(r"[<>=~\[]", r)[0].lower().replace("_", "-") for room in ("requirements", "extras") for text in lists[room].values() for r in text.split()}
    locked = {l.split("==")[0].lower().replace("_", "-") for l in (ROOT / "constraints.txt").read_text().splitlines() if "==" in l}
    assert wanted <= locked
    assert not tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("dependencies"), "dependencies live in settings.ini"
