"""The mean cosine of each of some vectors with its nearest ones, exactly: a float32 product finds them, float64 says how near they are.

Shape suffixes: Q queries, B base vectors, U different ones of these, D dimension, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdbuild.selectors._similarity import cosines, unit

_PRODUCT = 2**25
"""Numbers of a product: 128 MiB."""


def mean_cosines(queries_QD: np.ndarray, base_BD: np.ndarray, own_Q: Sequence[Sequence[int]], k: int) -> np.ndarray:
    """Return the mean cosine of each query with the `k` nearest base vectors, or with all where there are fewer: float64 of shape (Q,).

    Cosines are rounded to six decimals before the mean. `own_Q` holds positions in the base that a query is not compared with; NaN where no
    other is left.
    """
    queries_QD, base_BD = unit(queries_QD), unit(base_BD)
    if not len(queries_QD) or not len(base_BD):
        return np.full(len(queries_QD), np.nan)
    # Equal vectors are one with a count: else a set of equal texts would make each of them a candidate for each query.
    different_UD, group_B, count_U = np.unique(base_BD, axis=0, return_inverse=True, return_counts=True)
    group_B = group_B.reshape(-1)
    mean_Q = np.full(len(queries_QD), np.nan)
    step = max(1, _PRODUCT // len(different_UD))
    for start in range(0, len(queries_QD), step):
        product_QU = queries_QD[start : start + step] @ different_UD.T
        for i, row_U in enumerate(product_QU, start):
            own_U = np.bincount(group_B[list(own_Q[i])], minlength=len(count_U)) if own_Q[i] else 0
            mean_Q[i] = _mean(queries_QD[i], different_UD, row_U, count_U - own_U, k)
    return mean_Q


def _mean(query_D: np.ndarray, different_UD: np.ndarray, product_U: np.ndarray, count_U: np.ndarray, k: int) -> float:
    there_U = count_U > 0
    num_there = int(there_U.sum())
    if not num_there:
        return float("nan")
    product_U = np.where(there_U, product_U, -np.inf)
    place = len(product_U) - min(k, num_there)
    # How far float32 can move two products of unit vectors against each other.
    margin = 4 * (len(query_D) + 2) * 2.0**-24
    near_K = np.flatnonzero(product_U >= np.partition(product_U, place)[place] - margin)
    cosine_K = cosines(query_D, different_UD[near_K])
    order_K = np.argsort(-cosine_K, kind="stable")
    nearest = np.repeat(cosine_K[order_K], np.minimum(count_U[near_K][order_K], k))[:k]
    return float(nearest.sum() / len(nearest))
