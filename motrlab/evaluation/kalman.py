"""A constant-velocity Kalman filter over many boxes at once (Kalman 1960; noise model of DeepSORT, arXiv 1703.07402).

n: tracks. State `[n, 8]`: cx, cy, w, h in pixels and their change per frame; covariance `[n, 8, 8]`.
"""

from __future__ import annotations

import numpy as np

# Standard deviations as shares of the box size, DeepSORT's choice.
POSITION_NOISE = 1 / 20
VELOCITY_NOISE = 1 / 160
_MOTION = np.eye(8) + np.eye(8, k=4)


def initial_state(cxcywh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """State and covariance of tracks first seen at `cxcywh` `[n, 4]`, at rest and far from sure of it."""
    mean = np.concatenate([cxcywh, np.zeros_like(cxcywh)], axis=1)
    size = _size(cxcywh)
    return mean, _diagonal(2 * POSITION_NOISE * size, 10 * VELOCITY_NOISE * size)


def predict(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One frame on."""
    size = _size(mean[:, :4])
    noise = _diagonal(POSITION_NOISE * size, VELOCITY_NOISE * size)
    moved = mean @ _MOTION.T
    moved[:, 2:4] = np.maximum(moved[:, 2:4], 1.0)  # a long-lost box must not shrink to nothing
    return moved, _MOTION @ covariance @ _MOTION.T + noise


def update(mean: np.ndarray, covariance: np.ndarray, cxcywh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correct predicted tracks with the boxes `cxcywh` `[n, 4]` they were matched to."""
    noise = np.square(POSITION_NOISE * _size(mean[:, :4]))
    innovation = covariance[:, :4, :4] + noise[:, :, None] * np.eye(4)
    gain = np.linalg.solve(innovation, covariance[:, :4, :]).transpose(0, 2, 1)  # [n, 8, 4]
    corrected = mean + (gain @ (cxcywh - mean[:, :4])[:, :, None])[:, :, 0]
    return corrected, covariance - gain @ covariance[:, :4, :]


def _size(cxcywh: np.ndarray) -> np.ndarray:
    """The length that scales the noise of each coordinate: width, height, width, height."""
    return np.maximum(cxcywh[:, [2, 3, 2, 3]], 1.0)


def _diagonal(position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    return np.square(np.concatenate([position, velocity], axis=1))[:, :, None] * np.eye(8)
