"""What is multiplied in place of the vectors, so that most pairs are ruled out at a fraction of the work and none wrongly.

With x = (p, r) in rotated coordinates, p the first few and r the rest, <x, y> <= <p, q> + |r||s| (Cauchy and Schwarz). So the product of
the rows (p, |r|) and (q, |s|) never lies below the cosine: a pair that stays below the limit in it needs no second look. In the
coordinates of their principal axes, embeddings have short rests; and even noise without any structure gains where the limit is high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MIN_VECTORS = 4096
"""Below this the whole product takes no time."""
_NUM_FITTED, _NUM_JUDGED = 8192, 1024
_MAX_WASTE_FRAC = 2e-5
"""Share of pairs that may pass the sketch in vain; each costs about as much as a thousand that do not pass."""


@dataclass(frozen=True)
class Scan:
    """Rows whose products bound cosines."""

    rows_NP: np.ndarray
    """float32; the vectors themselves, or their sketches."""
    under: float
    """How far below the cosine a product can be."""
    over: float
    """How far above the cosine a product can be."""

    def __getitem__(self, some: slice | np.ndarray) -> Scan:
        """Return the scan of some of the rows."""
        return Scan(self.rows_NP[some], self.under, self.over)


def whole(vectors_ND: np.ndarray) -> Scan:
    """Return the vectors themselves: their products are off by float32 rounding alone, whatever the order of the sums."""
    error = (vectors_ND.shape[1] + 2) * 2.0**-24 + 4e-6
    return Scan(vectors_ND, error, error)


def narrow(vectors_ND: np.ndarray, limit: float) -> Scan:
    """Return the narrowest scan of unit vectors that few pairs with a cosine below `limit` pass."""
    num_vectors, dimension = vectors_ND.shape
    if num_vectors < _MIN_VECTORS or dimension < 64:
        return whole(vectors_ND)
    # The axes fit the rows they are taken from too well: they are judged by others.
    axes_DD = _principal_axes(_some(vectors_ND[0::2], _NUM_FITTED))
    sample_SD = _some(vectors_ND[1::2], _NUM_JUDGED)
    below = np.tril(sample_SD @ sample_SD.T < limit, -1)
    for width in range(dimension // 8, dimension * 3 // 4, dimension // 8):
        scan = _sketch(sample_SD, axes_DD[:, :width])
        passed = scan.rows_NP @ scan.rows_NP.T >= limit - scan.under
        if (passed & below).sum() <= _MAX_WASTE_FRAC * below.size / 2:
            return _sketch(vectors_ND, axes_DD[:, :width])
    return whole(vectors_ND)


def _some(vectors_ND: np.ndarray, at_most: int) -> np.ndarray:
    """Return evenly spaced ones."""
    return vectors_ND[np.linspace(0, len(vectors_ND) - 1, min(at_most, len(vectors_ND))).astype(np.int64)]


def _principal_axes(sample_SD: np.ndarray) -> np.ndarray:
    """Return orthonormal columns, those along which the sample is longest first."""
    moments_DD = (sample_SD.T @ sample_SD).astype(np.float64)
    axes_DD: np.ndarray = np.linalg.eigh(moments_DD)[1][:, ::-1].astype(np.float32)
    return axes_DD


def _sketch(vectors_ND: np.ndarray, axes_DP: np.ndarray) -> Scan:
    num_vectors, dimension = vectors_ND.shape
    # How far float32 can move a rotated vector, and with it a product or a squared length.
    error = dimension**0.5 * (dimension + 2) * 2.0**-24
    rows_NP = np.empty((num_vectors, axes_DP.shape[1] + 1), np.float32)
    np.matmul(vectors_ND, axes_DP, out=rows_NP[:, :-1])
    square_N = np.einsum("np,np->n", rows_NP[:, :-1], rows_NP[:, :-1])
    rows_NP[:, -1] = np.sqrt(np.maximum(1 - square_N, 0) + 3 * error)
    return Scan(rows_NP, under=3 * error + 4e-6, over=np.inf)
