"""Sizes of the random tests: smoke in each run, full by ``-m full``, nightly by the environment."""

import os

import pytest

# A nightly run takes as many inputs as 20 full ones.
TIMES = int(os.environ.get("DICOMDL_FAULTS_TIMES", "1"))
SEED = int(os.environ.get("DICOMDL_FUZZ_SEED", "20261129"))


def sizes(name: str, *, smoke: int, full: int, timeout: int = 3600) -> pytest.MarkDecorator:
    """Return the parameter of a test that is a number of inputs."""
    marks = [pytest.mark.full, pytest.mark.timeout(timeout * TIMES)]
    return pytest.mark.parametrize(
        name,
        [pytest.param(smoke, id="smoke"), pytest.param(full * TIMES, id="full", marks=marks)],
    )
