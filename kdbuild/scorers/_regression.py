"""Linear regression of one value on others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def fit(indicators: Sequence[Sequence[float]], targets: Sequence[float], ridge: float) -> tuple[float, list[float]] | None:
    """Return intercept and coefficients that minimise |y - b0 - X b|^2 + ridge |b|^2, b0 free; X is `indicators`, [rows, values].

    Solved by the singular values of the centred X, which is exact where columns nearly depend on each other, too. None where the data
    do not decide: without `ridge`, fewer independent rows than coefficients.
    """
    x, y = np.asarray(indicators, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if len(y) < 2:
        return None
    mean_x, mean_y = x.mean(axis=0), float(y.mean())
    u, sizes, v = np.linalg.svd(x - mean_x, full_matrices=False)
    is_zero = sizes <= max(x.shape) * np.finfo(np.float64).eps * max(float(sizes.max(initial=0.0)), float(np.abs(x).max(initial=0.0)))
    if not ridge and (is_zero.any() or len(sizes) < x.shape[1]):
        return None
    weights = np.divide(sizes, sizes**2 + ridge, out=np.zeros_like(sizes), where=~is_zero)
    found = v.T @ (weights * (u.T @ (y - mean_y)))
    return mean_y - float(mean_x @ found), [float(one) for one in found]
