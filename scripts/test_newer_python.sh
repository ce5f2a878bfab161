#!/usr/bin/env bash
# The base suite (no torch, no slow tests) on the newest Python that is found, where ArviZ has its second life (1.x).
# Called by `make test`. A machine without a newer Python is told so, and passes.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-newer

up_to_date() { # file: is it there, and newer than what says what to install?
  [ -e "$1" ] && [ "$1" -nt pyproject.toml ] && [ "$1" -nt setup.py ] && [ "$1" -nt constraints.txt ]
}

candidates() { # newest first: from PATH, then from pyenv
  local version
  for version in 3.14 3.13 3.12; do
    command -v "python$version" || true
    compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version.*/bin/python" | sort -V | tail -n 1 || true
  done
}

install_with() { # python: make the environment; wheels only, since compiling numerical libraries is no test of ours
  rm -rf "$venv"
  "$1" -m venv "$venv" &&
    "$venv/bin/python" -m pip --disable-pip-version-check -q install --only-binary :all: -c constraints.txt -e '.[test]' &&
    touch "$venv/.test"
}

if up_to_date "$venv/.unusable"; then
  echo "A newer Python was found, but ppl_gen would not install there (rm -r $venv to try again)"
  exit 0
fi
if ! up_to_date "$venv/.test"; then
  found=""
  while read -r python; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2> /dev/null || continue
    found="$python"
    echo "Installing ppl_gen[test] into $venv with $("$python" --version) (a minute or two the first time)"
    install_with "$python" && break
    echo "That failed."
  done < <(candidates)
  if [ -z "$found" ]; then
    echo "No Python 3.12 to 3.14 on this machine: the base suite was not run on a newer Python."
    exit 0
  elif [ ! -e "$venv/.test" ]; then
    echo "The base suite was not run on a newer Python: ppl_gen would not install there."
    mkdir -p "$venv" && touch "$venv/.unusable"
    exit 0
  fi
fi
echo "The base suite on $("$venv/bin/python" --version)"
"$venv/bin/python" -m pytest -n 2 --dist loadfile -m "not pyro and not slow" -p no:cacheprovider "$@"
