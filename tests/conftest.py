"Shared fixtures: the installed command, a small built-in data set, a server while it is needed, Chromium where it is there."
import os, shutil, socket, subprocess, sys, time, urllib.request
from contextlib import contextmanager
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMAND = Path(sys.executable).with_name("deepfake-nb")


@contextmanager
def running(command, health, log):
    "A server at a free port, which replaces PORT in the command; gives its address once `health` answers there."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    server = subprocess.Popen([str(c).replace("PORT", port) for c in command], stdout=log.open("w"), stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try: urllib.request.urlopen(url + health, timeout=2); break
            except OSError: time.sleep(0.5)
        else: pytest.fail(log.read_text())
        yield url
    finally:
        server.terminate()
        try: server.wait(timeout=20)
        except subprocess.TimeoutExpired:  # JupyterLab now and then waits for ever for a kernel that was still starting
            server.kill()
            server.wait()


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory): os.environ["DEEPFAKE_NB_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def cli():
    "Run `deepfake-nb ...` as a user would; returns the finished process."
    def run(*args, **env):
        return subprocess.run([COMMAND, *map(str, args)], capture_output=True, text=True, env={**os.environ, **env})
    return run


@pytest.fixture(scope="session")
def actors(cli, tmp_path_factory):
    "Five clips real, five fake (of all three methods), 1.2 s."
    out = tmp_path_factory.mktemp("actors")
    done = cli("actors", out, "--identities", 5, "--clips", 1, "--seconds", 1.2, "--quiet")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def media():
    "The folder of real media, or skip."
    folder = os.environ.get("DEEPFAKE_NB_DATA")
    if not folder: pytest.skip("DEEPFAKE_NB_DATA is not set: no real media here")
    return Path(folder)


@pytest.fixture(scope="session")
def chromium():
    "A Chromium, or skip."
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found: pytest.skip("no Chromium here: make browser installs it")
    return found
