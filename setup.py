"Reads the dependency lists of settings.ini; everything else is in pyproject.toml."
from configparser import ConfigParser
from setuptools import setup

lists = ConfigParser()
if not lists.read("settings.ini", encoding="utf-8"): raise SystemExit("settings.ini is missing")
setup(
    install_requires=[line for room in lists["requirements"].values() for line in room.split()],
    extras_require={name: text.split() for name, text in lists["extras"].items()},
)
