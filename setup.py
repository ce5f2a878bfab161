"""Lists the packages; all else is in pyproject.toml. models/ and inference/ are installed inside ppl_gen."""

from setuptools import find_packages, setup

FOLDERS = {"ppl_gen": "ppl_gen", "ppl_gen.models": "models", "ppl_gen.inference": "inference"}
PACKAGES = [name for root, path in FOLDERS.items() for name in (root, *(f"{root}.{p}" for p in find_packages(path)))]

setup(package_dir=FOLDERS, packages=PACKAGES)
