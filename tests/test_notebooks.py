"Every notebook opens in Jupyter; one of them in a real browser."
import json, sys, urllib.request
from pathlib import Path
import pytest
from conftest import ROOT, running

NOTEBOOKS = sorted(p.name for p in (ROOT / "nbs").glob("*.ipynb"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab on the chapters; its address."
    command = [Path(sys.executable).with_name("jupyter"), "lab", "--no-browser", "--allow-root", "--port=PORT", "--ip=127.0.0.1", "--notebook-dir", ROOT / "nbs",
               "--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with running(command, "/api/status", tmp_path_factory.mktemp("lab") / "log") as url: yield url


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_opens_through_the_server(lab, name):
    content = json.load(urllib.request.urlopen(f"{lab}/api/contents/{name}", timeout=20))
    assert content["type"] == "notebook" and content["format"] == "json" and content.get("message") is None
    assert len(content["content"]["cells"]) > 3 and content["content"]["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.browser
def test_opens_in_a_browser(lab, chromium, tmp_path):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        page = browser.new_page(viewport=dict(width=1300, height=900))
        page.goto(f"{lab}/lab/tree/21_detect.cnn.ipynb?reset")
        page.locator(".jp-MarkdownOutput h1", has_text="The baseline CNN").wait_for(timeout=120000)
        page.locator(".jp-Notebook .jp-Cell").nth(5).wait_for(state="attached", timeout=120000)
        page.screenshot(path=tmp_path / "lab.png")
        browser.close()
