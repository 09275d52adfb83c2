"Two chapters by papermill, as `make report` runs them."
import json, re, subprocess, sys
from pathlib import Path
import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def report(cli, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return cli("report", "data.preprocess", "detect.cnn", "--out", out, "--quiet"), out


def test_report_runs_and_gathers(report):
    done, out = report
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"\] (\S+) +(\w+)", done.stdout) == [("data.preprocess", "ran"), ("detect.cnn", "ran")]
    page = (out / "index.html").read_text()
    assert len(re.findall("data:image/(png|webp);base64,", page)) >= 4 and not re.search(r'(src|href)="https?:', page)
    assert set(json.loads((out / "metrics.json").read_text())) == {"data.preprocess", "detect.cnn"}


def test_every_figure_has_its_provenance(report):
    _, out = report
    for chapter in (out / "data.preprocess", out / "detect.cnn"):
        record = json.loads((chapter / "provenance.json").read_text())
        assert set(record["figures"]) == {p.name for p in chapter.glob("*.png")}
        assert record["versions"]["torch"] and record["parameters"]["seed"] == 0 and record["data_hash"]
        assert not [k for k in json.loads((chapter / "metrics.json").read_text()) if "seconds" in k], "durations belong to timings.json"


def test_results_are_what_is_expected(report):
    from deepfake_nb.report import compare_chapter
    _, out = report
    for chapter in ("data.preprocess", "detect.cnn"):
        same, problems, counted = compare_chapter(out / chapter, ROOT / "reports" / "expected" / "smoke" / chapter)
        assert not counted, problems


def test_second_run_is_cached(report, cli):
    _, out = report
    done = cli("report", "data.preprocess", "detect.cnn", "--out", out, "--quiet")
    assert done.returncode == 0 and done.stdout.count("cached") == 2


def test_papermill_alone_refuses_an_unknown_parameter(tmp_path):
    notebook = ROOT / "nbs" / "21_detect.cnn.ipynb"
    done = subprocess.run([Path(sys.executable).with_name("papermill"), notebook, tmp_path / "o.ipynb", "-p", "epochs", "3", "-p", "out", tmp_path / "x"],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "unknown parameter epochs" in done.stderr


@pytest.mark.slow
def test_a_run_from_clean_gives_the_same_numbers_and_pixels(report, cli, tmp_path):
    _, out = report
    assert cli("report", "data.preprocess", "detect.cnn", "--out", tmp_path, "--quiet", DEEPFAKE_NB_CACHE=str(tmp_path / "cache")).returncode == 0
    for chapter in ("data.preprocess", "detect.cnn"):
        assert (out / chapter / "metrics.json").read_bytes() == (tmp_path / chapter / "metrics.json").read_bytes()
        a, b = (json.loads((d / chapter / "provenance.json").read_text())["figures"] for d in (out, tmp_path))
        assert {n: f["pixels"] for n, f in a.items() if not f["timing"]} == {n: f["pixels"] for n, f in b.items() if not f["timing"]}
