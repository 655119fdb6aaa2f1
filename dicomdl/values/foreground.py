"""The foreground of a stack: the threshold above which values belong to the body.

Samplers of patches, the mask of `ZScore` and fingerprints decide by the same rule: above -500 for
values in HU, otherwise above the threshold of Otsu for a sample.
"""

from typing import Final

import numpy as np

from dicomdl.arrays import Values

# Between air (-1000 HU) and fat (-100 HU).
BODY_HU: Final = -500.0


def threshold(units: str, sample: Values) -> float:
    """Return the value above which voxels are foreground, for values in some units."""
    return BODY_HU if units == "HU" else otsu(sample)


def otsu(sample: Values) -> float:
    """Return the threshold that splits a sample into two classes of least variance.

    The histogram has 256 bins.

    References
    ----------
    N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9(1), 1979.
    """
    values = np.asarray(sample, np.float64).ravel()
    values = values[np.isfinite(values)]
    if not values.size or values.min() == values.max():
        return float(values[0]) if values.size else 0.0
    counts, edges = np.histogram(values, 256)
    centers = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    sums = np.cumsum(counts * centers)
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2
    # All thresholds in an empty valley are equally good; take the middle.
    return float(edges[1:-1][between >= between.max() * (1 - 1e-9)].mean())
