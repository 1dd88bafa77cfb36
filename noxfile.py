"""The tests on every Python that is supported; one .venv of `make env` serves everything else.

`nox -s light` runs what needs no torch, in an environment that has none. `nox -s tests` runs everything where pip finds
torch; `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` keeps the gigabytes of CUDA out.
"""

import nox

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
TOOLS = ("hypothesis", "psutil", "pytest", "pytest-timeout")

nox.options.sessions = ["light"]
nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def light(session: nox.Session) -> None:
    """The engine, the readers and the command line as `pip install sparseact` gives them."""
    session.install("-c", "constraints.txt", ".", *TOOLS)
    session.run("python", "-c", "from importlib.util import find_spec; assert find_spec('torch') is None")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The whole default suite."""
    session.install("-c", "constraints.txt", ".[all,dev]")
    session.run("sparseact", "fetch", "smollm2")
    session.run("pytest", "-n", "2", *session.posargs, env={"OMP_NUM_THREADS": "1"})
