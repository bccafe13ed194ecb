"""Least squares that one hiccup of a host does not decide: non-negative, relative, with Huber's weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
_ROUNDS = 8
_LEAST_SPREAD = 0.003  # of relative residuals: data without noise should not make weights vanish
_RIDGE = 1e-12  # of each column's square, so that columns that depend on each other stay apart
_HUBER = 2.0  # residuals beyond this many robust standard deviations count less
_MAD_TO_SD = 1.4826


def robust_sd(values: Float) -> float:
    """Return the standard deviation of the bulk: 1.4826 × the median distance from the median."""
    return float(_MAD_TO_SD * np.median(np.abs(values - np.median(values)))) if len(values) else 0.0


def non_negative(matrix: Float, target: Float) -> Float:
    """Return x ≥ 0 that minimises |matrix x − target|² (Lawson and Hanson 1974, algorithm NNLS)."""
    columns = matrix.shape[1]
    # The small triangle R with R'R = A'A has the same solutions as the tall matrix. Summed by einsum: for
    # tall and narrow matrices BLAS threads cost many times the sum on a busy machine.
    gram = np.einsum("ij,ik->jk", matrix, matrix)
    triangle = np.linalg.cholesky(gram + np.diag(_RIDGE * np.diag(gram) + 1e-300)).T
    right = np.linalg.solve(triangle.T, np.einsum("ij,i->j", matrix, target))
    x = np.zeros(columns)
    free, refused = np.zeros(columns, bool), np.zeros(columns, bool)
    tolerance = 1e-10 * max(1.0, float(np.abs(triangle.T @ right).max(initial=0.0)))
    for _ in range(5 * columns + 10):
        gradient = np.where(free | refused, -np.inf, triangle.T @ (right - triangle @ x))
        entering = int(np.argmax(gradient))
        if gradient[entering] <= tolerance:
            break
        free[entering] = True
        before = x
        x = _step_inside(triangle, right, x, free)
        # A column that is all but a sum of others can enter and leave at once: try the next one instead.
        refused = (refused | _only(entering, columns)) if not free[entering] else refused & (x == before)
    return x


def _step_inside(triangle: Float, right: Float, x: Float, free: NDArray[np.bool_]) -> Float:
    """Return the best x of the free columns, the others 0; columns that turn negative stop being free."""
    while free.any():
        inside = np.flatnonzero(free)
        trial = np.zeros(len(x))
        trial[inside] = np.linalg.lstsq(triangle[:, inside], right, rcond=None)[0]
        falling = inside[trial[inside] <= 0]
        if not len(falling):
            return trial
        reach = x[falling] / np.maximum(x[falling] - trial[falling], 1e-300)
        first = int(np.argmin(reach))
        x = np.maximum(x + float(reach[first]) * (trial - x), 0.0)
        free[falling[first]] = False
        x[~free] = 0.0
    return np.zeros(len(x))


def _only(index: int, count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, bool)
    mask[index] = True
    return mask


def relative_fit(matrix: Float, target: Float, smooth: Float | None = None) -> Float:
    """Return coefficients ≥ 0 of `target ≈ matrix x` with errors in proportion to the target.

    `smooth` are further rows that should come out 0 (a mild preference, in the units of relative error).
    """
    scale = np.maximum(target, 0.05 * float(np.median(target)))
    norm = np.linalg.norm(matrix / scale[:, None], axis=0) + 1e-12
    weight = np.ones(len(target))
    x = np.zeros(matrix.shape[1])
    for _ in range(_ROUNDS):
        rows = matrix * (weight / scale)[:, None] / norm
        right = target * weight / scale
        if smooth is not None:
            rows, right = (
                np.concatenate([rows, smooth / norm]),
                np.concatenate([right, np.zeros(len(smooth))]),
            )
        before, x = x, non_negative(rows, right) / norm
        residual = (target - matrix @ x) / scale
        spread = robust_sd(residual) + _LEAST_SPREAD
        weight = np.sqrt(np.minimum(1.0, _HUBER * spread / np.maximum(np.abs(residual), 1e-12)))
        if np.allclose(before, x, rtol=1e-5, atol=1e-12):
            break
    return x


def mean_ratio(target: Float, predicted: Float) -> float:
    """Return the mean of target / predicted, each ratio held between 1/4 and 4."""
    return float(np.clip(target / np.maximum(predicted, 1e-9), 0.25, 4.0).mean())
