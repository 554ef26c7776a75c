"""Compiled parts of the ascent of prices on time: shares of prices, and the steps of the ascent."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from modelkit.runtime.kernel import kernel


class Own(NamedTuple):
    """Where own prices lie: the first bucket of each request, shape [n], and where its own begin, shape [n + 1]."""

    first: Any
    begin: Any


class Shares(NamedTuple):
    """Of own prices, and of common ones, shape [rows, buckets]; or their logits, or the gradient by them."""

    own: Any
    common: Any


@kernel
def find_shares(own: Own, logits: Shares, found: Shares) -> None:
    """Softmax in each bucket over the common rows and over the requests whose own prices it has."""
    first, begin = own
    shares, common_shares = found
    common, buckets = logits.common, logits.common.shape[1]
    highest = np.full(buckets, -1e300)
    for c in range(common.shape[0]):
        for b in range(buckets):
            highest[b] = max(highest[b], common[c, b])
    for i in range(len(first)):
        for j in range(begin[i], begin[i + 1]):
            b = first[i] + j - begin[i]
            highest[b] = max(highest[b], logits.own[j])
    total = np.zeros(buckets)
    for c in range(common.shape[0]):
        for b in range(buckets):
            common_shares[c, b] = math.exp(common[c, b] - highest[b])
            total[b] += common_shares[c, b]
    for i in range(len(first)):
        for j in range(begin[i], begin[i + 1]):
            b = first[i] + j - begin[i]
            shares[j] = math.exp(logits.own[j] - highest[b])
            total[b] += shares[j]
    for c in range(common.shape[0]):
        for b in range(buckets):
            common_shares[c, b] /= max(total[b], 1e-300)
    for i in range(len(first)):
        for j in range(begin[i], begin[i + 1]):
            shares[j] /= max(total[first[i] + j - begin[i]], 1e-300)


@kernel
def share_gradient(own: Own, worth: Any, given: Shares, slope: Shares, server: Any) -> None:
    """From the gradient by prices to that by logits, in place; adds to ``server`` what a higher worth brings.

    A price is ``worth * pi * share``.
    """
    first, begin = own
    shares, common_shares = given
    gradient, common_gradient = slope
    mean = np.zeros(common_shares.shape[1])
    for c in range(common_shares.shape[0]):
        mean += common_shares[c] * common_gradient[c]
    for i in range(len(first)):
        for j in range(begin[i], begin[i + 1]):
            mean[first[i] + j - begin[i]] += shares[j] * gradient[j]
    for c in range(common_shares.shape[0]):
        common_gradient[c] = worth * common_shares[c] * (common_gradient[c] - mean)
    for i in range(len(first)):
        for j in range(begin[i], begin[i + 1]):
            b = first[i] + j - begin[i]
            gradient[j] = worth[b] * shares[j] * (gradient[j] - mean[b])
    server += mean


@kernel
def climb(x: Any, gradient: Any, moments: Any, step: Any, iteration: int, floor: float) -> None:
    """One step of Adam upwards (Kingma, Ba, arXiv 1412.6980), ``step`` by entry or one for all; not below a floor.

    ``moments`` are the fading means of the gradient and of its square, shape [2, n].
    """
    mean, square = moments[0], moments[1]
    fade_mean, fade_square = 1 - 0.9**iteration, 1 - 0.99**iteration
    for j in range(len(x)):
        mean[j] += 0.1 * (gradient[j] - mean[j])
        square[j] += 0.01 * (gradient[j] * gradient[j] - square[j])
        change = mean[j] / fade_mean / (math.sqrt(square[j] / fade_square) + 1e-12)
        x[j] = max(floor, x[j] + step[j % len(step)] * change)
