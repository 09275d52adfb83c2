"The wheel: what is in it, and that it works without the checkout."
import subprocess, sys, venv, zipfile
from pathlib import Path
import pytest
from conftest import ROOT

EVERYTHING = """
import importlib, pkgutil, deepfake_nb
assert {root!r} not in deepfake_nb.__file__, deepfake_nb.__file__
names = [m.name for m in pkgutil.walk_packages(deepfake_nb.__path__, 'deepfake_nb.')]
for n in names: importlib.import_module(n)
from deepfake_nb import Detector
from deepfake_nb.core import load_profile
load_profile('smoke'), Detector.pretrained()
print(len(names))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    subprocess.run(["git", "clone", "--quiet", ROOT, source], check=True)
    done = subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", out, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_wheel_has_data_files_and_both_licences(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for part in ("profiles/smoke.yml", "templates/report.html", "weights/face_cnn.safetensors", "weights/face_cnn.json", "detect/cnn.py", "data/faces.py", "consents/grid.toml"):
        assert f"deepfake_nb/{part}" in names
    info = next(n for n in names if n.endswith(".dist-info/METADATA"))
    meta = zipfile.ZipFile(wheel).read(info).decode()
    assert "License-Expression: MIT AND CC-BY-4.0 AND CC-BY-SA-4.0 AND CC-BY-NC-SA-4.0" in meta and "Requires-Dist: torch>=2.11" in meta
    assert sum("/licenses/" in n for n in names) == 2
    assert not [n for n in names if n.startswith(("tests/", "nbs/"))]


def test_wheel_works_in_an_environment_without_the_checkout(wheel, tmp_path):
    # the packages it depends on are lent by this environment; the package itself is only the wheel's
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, capture_output=True)
    site = Path(subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True, check=True).stdout.strip())
    (site / "lent.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")) + "\n")
    done = subprocess.run([python, "-c", EVERYTHING.format(root=str(ROOT))], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run([tmp_path / "env" / "bin" / "deepfake-nb", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.stdout.startswith("deepfake_nb 0."), shown.stderr


@pytest.mark.slow
def test_wheel_installs_with_its_dependencies(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel], check=True, capture_output=True)
    done = subprocess.run([python, "-c", EVERYTHING.format(root=str(ROOT))], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_import_and_help_are_light():
    heavy = "{'torch', 'fastai', 'matplotlib', 'librosa', 'cv2', 'dlib', 'pandas'}"
    for what in ("import deepfake_nb", "import deepfake_nb.cli", "import deepfake_nb.core"):
        subprocess.run([sys.executable, "-c", f"import sys; {what}; found = {heavy} & set(sys.modules); assert not found, found"], check=True)


def test_inference_needs_no_training_library():
    code = "import sys; import deepfake_nb.detect.detector; found = {'fastai', 'librosa', 'gradio', 'matplotlib', 'sklearn'} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
