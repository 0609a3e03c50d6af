"""The folder configs/ is installed as ssod/configs; all else is in setup.cfg and pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ssod", "ssod.*"]), "ssod.configs"],
    package_dir={"ssod.configs": "configs"},
)
