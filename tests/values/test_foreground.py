"""foreground: the threshold above which voxels belong to the body."""

import numpy as np

from dicomdl.values.foreground import otsu, threshold


def test_otsu_parts_two_humps_and_knows_a_constant() -> None:
    generator = np.random.default_rng(0)
    humps = np.concatenate([generator.normal(0, 5, 5000), generator.normal(100, 5, 3000)])
    assert 20 < otsu(humps) < 80
    assert otsu(np.full(10, 7)) == 7 and otsu(np.array([np.nan])) == 0


def test_values_in_hu_have_a_threshold_of_their_own() -> None:
    values = np.array([-1000, -1000, 0, 40, 900])
    assert threshold("HU", values) == -500 and threshold("", values) == otsu(values)
