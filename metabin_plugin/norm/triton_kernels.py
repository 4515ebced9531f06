"""The kernels of BIN on a GPU: three launches forward, three backward, two in evaluation.

A map is blocks of rows, one row for each sample and channel, of pixels. In a contiguous map there
is one block of N * C rows, whose pixels lie together; in channels_last the N samples are blocks of
C rows, and those lie together (``LAST``). A program takes a tile of ``R`` rows and ``P`` pixels of
one block. Values for each row, (N, C), lie in the same order in both. All arithmetic is float32.
Channels in channels_last, else pixels, are a multiple of ``V``: kernels divide and multiply by it,
for the compiler to see that, and to read as many values at once.

Where there are too few rows to fill a device, ``statistics`` and ``sums`` split the pixels of a row
into chunks, each of a program of its own, and the kernels after them join these: by unrolled loops,
for programs are few there, and would else wait for the values of each chunk. Between the passes
over the map a program takes ``C`` channels and loops over their samples, ``N`` at a time. Formulas
are those of ``formula.py``, under the names that they have there.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language import constexpr

# Values that differ from layer to layer and are not worth a compiled version each. Parameters lie
# in one buffer of an optimizer, some of them at a multiple of 16 bytes and some not.
_PARAMETERS = [
    *("gate", "weight", "bias", "instance_weight", "instance_bias"),
    *("running_mean", "running_var", "counter"),
]
_GENERAL = ["samples", "channels", "pixels", "chunk", "chunks", *_PARAMETERS]


@triton.jit
def _rows_of_tile(rows, R: constexpr):
    """Numbers of a program's rows in their block, places in (N, C), and whether they exist."""
    row = tl.program_id(0) * R + tl.arange(0, R)
    return row, tl.program_id(2).to(tl.int64) * rows + row, row < rows


@triton.jit
def _places(row, rows, pixel, end, pixels, LAST: constexpr, V: constexpr):
    """Places in the map of a tile of rows and pixels, and whether they exist."""
    if LAST:
        rows = rows // V * V
    else:
        pixels, end = pixels // V * V, end // V * V
    there = (row < rows)[:, None] & (pixel < end)[None, :]
    block = tl.program_id(2).to(tl.int64) * rows * pixels
    if LAST:
        return block + pixel[None, :].to(tl.int64) * rows + row[:, None], there
    else:
        return block + row[:, None].to(tl.int64) * pixels + pixel[None, :], there


@triton.jit
def _tile(rows, pixels, LAST: constexpr, V: constexpr, R: constexpr, P: constexpr):
    """What both above give, for a program that takes ``P`` pixels of each of its rows."""
    row, at, exists = _rows_of_tile(rows, R)
    pixel = tl.program_id(1) * P + tl.arange(0, P)
    places, there = _places(row, rows, pixel, pixels, pixels, LAST, V)
    return row, at, exists, places, there


@triton.jit
def _chunk(chunk, pixels, LAST: constexpr, V: constexpr):
    """First pixel of a program's chunk, and the first one after it."""
    if not LAST:
        chunk = chunk // V * V
    start = tl.program_id(1) * chunk
    return start, tl.minimum(start + chunk, pixels)


@triton.jit
def _store_chunk(out, at, first, second, rows, exists):
    """Two values of each row of this program's chunk, into (2, chunks, N, C)."""
    all_rows = tl.num_programs(2).to(tl.int64) * rows
    out += tl.program_id(1) * all_rows + at
    tl.store(out, first, mask=exists)
    tl.store(out + tl.num_programs(1) * all_rows, second, mask=exists)


# fmt: off
@triton.jit
def statistics(
    x, out, rows, pixels, chunk, LAST: constexpr, V: constexpr, R: constexpr, P: constexpr
):
# fmt: on
    """Mean and biased variance of each chunk of each row, (2, chunks, N, C).

    Every place of the tile has a mean and a sum of squares of its own (Welford 1962), so that
    neither a large mean nor a bright pixel cancels what the others add.
    """
    row, at, exists = _rows_of_tile(rows, R)
    start, end = _chunk(chunk, pixels, LAST, V)
    means = tl.zeros((R, P), tl.float32)
    squares = tl.zeros((R, P), tl.float32)
    counts = tl.zeros((P,), tl.float32)
    for first in range(start, end, P):
        pixel = first + tl.arange(0, P)
        places, there = _places(row, rows, pixel, end, pixels, LAST, V)
        values = tl.load(x + places, mask=there, other=0.0).to(tl.float32)
        change = tl.where(there, values - means, 0.0)
        means += change * (1.0 / ((first - start) // P + 1))
        squares += change * (values - means)
        counts += tl.where(pixel < end, 1.0, 0.0)
    count = (end - start).to(tl.float32)
    mean = tl.sum(means * counts[None, :], 1) / count
    between = means - mean[:, None]
    var = tl.sum(squares + counts[None, :] * between * between, 1) / count
    _store_chunk(out, at, mean, var, rows, exists)


@triton.jit
def _joined_statistics(values, place, exists, chunks, chunk, pixels, all_rows):
    """Mean and variance of rows from those of their chunks (Chan et al. 1983)."""
    values += place
    variances = values + chunks * tl.cast(all_rows, tl.int64)
    mean = tl.load(values, mask=exists, other=0.0)
    squares = tl.load(variances, mask=exists, other=0.0)
    if chunks > 1:
        count = chunk * 1.0
        squares *= count
        for k in tl.range(1, chunks, loop_unroll_factor=4):
            there = tl.minimum(chunk, pixels - k * chunk) * 1.0
            at = k * tl.cast(all_rows, tl.int64)
            change = tl.load(values + at, mask=exists, other=0.0) - mean
            share = there / (count + there)
            squares += tl.load(variances + at, mask=exists, other=0.0) * there
            squares += change * change * (count * share)
            mean += change * share
            count += there
        squares /= pixels
    return mean, squares


@triton.jit
def _joined_sums(values, place, exists, chunks, all_rows):
    """Both sums of rows from those of their chunks."""
    values += place
    total = tl.zeros(place.shape, tl.float32)
    product = tl.zeros(place.shape, tl.float32)
    for k in tl.range(0, chunks, loop_unroll_factor=4):
        at = k * tl.cast(all_rows, tl.int64)
        total += tl.load(values + at, mask=exists, other=0.0)
        at += chunks * tl.cast(all_rows, tl.int64)
        product += tl.load(values + at, mask=exists, other=0.0)
    return total, product


@triton.jit
def _mean_and_factor(instance, place, exists, all_rows, eps):
    """Of instances, what is subtracted from them and what they are multiplied by."""
    var = tl.load(instance + all_rows + place, mask=exists, other=1.0)
    return tl.load(instance + place, mask=exists, other=0.0), tl.rsqrt(var + eps)


@triton.jit
def _channels(channels, C: constexpr):
    """A program's channels, and whether they exist."""
    channel = tl.program_id(0) * C + tl.arange(0, C)
    return channel, channel < channels


@triton.jit
def _samples_of_channels(first, samples, channel, channels, N: constexpr):
    """Places in (N, C) of a tile of samples and channels, and whether they exist."""
    sample = first + tl.arange(0, N)
    exists = (sample < samples)[:, None] & (channel < channels)[None, :]
    return sample[:, None].to(tl.int64) * channels + channel[None, :], exists


@triton.jit
def _of_channel(values, channel, exists):
    return tl.load(values + channel, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _move(running, channel, exists, value, momentum):
    before = _of_channel(running, channel, exists)
    tl.store(running + channel, before + momentum * (value - before), mask=exists)


@triton.jit
def _mixed_affine(mean, var, batch_mean, batch_var, rho, weight, bias, own_weight, own_bias, eps):
    """``formula.mixed_affine``."""
    batch_scale = rho * weight * tl.rsqrt(batch_var + eps)
    own_scale = (1 - rho) * own_weight * tl.rsqrt(var + eps)
    shift = rho * bias + (1 - rho) * own_bias - batch_scale * batch_mean
    return batch_scale + own_scale, shift - own_scale * mean


# fmt: off
@triton.jit(do_not_specialize=_GENERAL)
def coefficients(
    of_chunks, instance, batch, affine,
    gate, weight, bias, instance_weight, instance_bias, running_mean, running_var, counter,
    pixels, chunk, chunks, momentum, eps, samples, channels,
    TRAINING: constexpr, N: constexpr, C: constexpr,
):
# fmt: on
    """Statistics of instances (2, N, C), those for the batch half (2, C), and Eq. 1 (2, N, C).

    Statistics are mean and variance; Eq. 1 is a scale and a shift. In training the running
    statistics are moved, unless they are None; in evaluation they are used. A counter is increased
    by 1.
    """
    # Nested, for Triton decides the first when it compiles, and the second when it runs.
    if counter is not None:  # noqa: SIM102
        if tl.program_id(0) == 0:
            tl.store(counter, tl.load(counter) + 1)
    channel, is_channel = _channels(channels, C)
    all_rows = samples * tl.cast(channels, tl.int64)
    mean = tl.zeros((C,), tl.float32)
    squares = tl.zeros((C,), tl.float32)
    for first in range(0, samples, N):
        place, exists = _samples_of_channels(first, samples, channel, channels, N)
        m, v = _joined_statistics(of_chunks, place, exists, chunks, chunk, pixels, all_rows)
        tl.store(instance + place, m, mask=exists)
        tl.store(instance + all_rows + place, v, mask=exists)
        # The mean of the variances plus the variance of the means (Chan et al. 1983).
        there = tl.minimum(samples - first, N) * 1.0
        own = tl.sum(m, 0) / there
        within = tl.where(exists, m - own[None, :], 0.0)
        share = there / (first + there)
        squares += tl.sum(v + within * within, 0) + (own - mean) * (own - mean) * (first * share)
        mean += (own - mean) * share
    var = squares / samples
    if not TRAINING:
        mean = _of_channel(running_mean, channel, is_channel)
        var = _of_channel(running_var, channel, is_channel)
    elif running_mean is not None:
        count = samples * 1.0 * pixels
        _move(running_mean, channel, is_channel, mean, momentum)
        _move(running_var, channel, is_channel, var * (count / (count - 1)), momentum)
    tl.store(batch + channel, mean, mask=is_channel)
    tl.store(batch + channels + channel, var, mask=is_channel)
    rho = _of_channel(gate, channel, is_channel)
    w, b = _of_channel(weight, channel, is_channel), _of_channel(bias, channel, is_channel)
    own_w = _of_channel(instance_weight, channel, is_channel)
    own_b = _of_channel(instance_bias, channel, is_channel)
    for first in range(0, samples, N):
        place, exists = _samples_of_channels(first, samples, channel, channels, N)
        # Not read back: other threads may have stored them.
        m, v = _joined_statistics(of_chunks, place, exists, chunks, chunk, pixels, all_rows)
        scale, shift = _mixed_affine(m, v, mean, var, rho, w, b, own_w, own_b, eps)
        tl.store(affine + place, scale, mask=exists)
        tl.store(affine + all_rows + place, shift, mask=exists)


# fmt: off
@triton.jit
def normalize(
    x, y, affine, rows, pixels, LAST: constexpr, V: constexpr, R: constexpr, P: constexpr
):
# fmt: on
    """``y = scale * x + shift``, with both as (2, N, C)."""
    _row, at, exists, places, there = _tile(rows, pixels, LAST, V, R, P)
    scale = tl.load(affine + at, mask=exists)[:, None]
    shift = tl.load(affine + tl.num_programs(2).to(tl.int64) * rows + at, mask=exists)[:, None]
    tl.store(y + places, tl.load(x + places, mask=there).to(tl.float32) * scale + shift, mask=there)


# fmt: off
@triton.jit(do_not_specialize=["channels", "chunk", *_PARAMETERS])
def infer(
    x, y, of_chunks,
    gate, weight, bias, instance_weight, instance_bias, running_mean, running_var,
    rows, pixels, channels, chunk, chunks, eps,
    LAST: constexpr, V: constexpr, R: constexpr, P: constexpr,
):
# fmt: on
    """Eq. 1 in evaluation, from the statistics of chunks: a launch less than ``normalize``."""
    row, at, exists, places, there = _tile(rows, pixels, LAST, V, R, P)
    all_rows = tl.num_programs(2) * rows
    mean, var = _joined_statistics(of_chunks, at, exists, chunks, chunk, pixels, all_rows)
    channel = row if LAST else row % channels
    batch_mean = _of_channel(running_mean, channel, exists)
    batch_var = _of_channel(running_var, channel, exists)
    rho = _of_channel(gate, channel, exists)
    w, b = _of_channel(weight, channel, exists), _of_channel(bias, channel, exists)
    own_w = _of_channel(instance_weight, channel, exists)
    own_b = _of_channel(instance_bias, channel, exists)
    scale, shift = _mixed_affine(mean, var, batch_mean, batch_var, rho, w, b, own_w, own_b, eps)
    values = tl.load(x + places, mask=there).to(tl.float32) * scale[:, None] + shift[:, None]
    tl.store(y + places, values, mask=there)


# fmt: off
@triton.jit
def sums(
    gradient, x, mean, out, rows, pixels, chunk,
    LAST: constexpr, V: constexpr, R: constexpr, P: constexpr,
):
# fmt: on
    """Sums of ``gradient`` and of ``gradient * (x - mean)`` of each chunk, (2, chunks, N, C)."""
    row, at, exists = _rows_of_tile(rows, R)
    start, end = _chunk(chunk, pixels, LAST, V)
    centre = tl.load(mean + at, mask=exists, other=0.0)[:, None]
    total = tl.zeros((R, P), tl.float32)
    product = tl.zeros((R, P), tl.float32)
    for first in range(start, end, P):
        pixel = first + tl.arange(0, P)
        places, there = _places(row, rows, pixel, end, pixels, LAST, V)
        slopes = tl.load(gradient + places, mask=there, other=0.0).to(tl.float32)
        total += slopes
        product += slopes * (tl.load(x + places, mask=there, other=0.0).to(tl.float32) - centre)
    _store_chunk(out, at, tl.sum(total, 1), tl.sum(product, 1), rows, exists)


# fmt: off
@triton.jit(do_not_specialize=_GENERAL)
def gradients(
    of_chunks, instance, batch, gate, weight, bias, instance_weight, instance_bias,
    of_parameters, abc, pixels, chunks, eps, samples, channels,
    TRAINING: constexpr, N: constexpr, C: constexpr,
):
# fmt: on
    """``formula.mixed_affine_gradient``: the parameters' (5, C), and a, b, c of the map (3, N, C).

    Where ``abc`` is None, the parameters' alone.
    """
    channel, is_channel = _channels(channels, C)
    all_rows = samples * tl.cast(channels, tl.int64)
    rho = _of_channel(gate, channel, is_channel)
    batch_weight = _of_channel(weight, channel, is_channel)
    own_weight = _of_channel(instance_weight, channel, is_channel)
    batch_mean = _of_channel(batch, channel, is_channel)
    batch_factor = tl.rsqrt(_of_channel(batch + channels, channel, is_channel) + eps)
    of_batch = tl.zeros((C,), tl.float32)
    d_scale = tl.zeros((C,), tl.float32)
    d_bias = tl.zeros((C,), tl.float32)
    for first in range(0, samples, N):
        place, exists = _samples_of_channels(first, samples, channel, channels, N)
        total, product = _joined_sums(of_chunks, place, exists, chunks, all_rows)
        mean, factor = _mean_and_factor(instance, place, exists, all_rows, eps)
        of_batch += tl.sum(product + total * (mean - batch_mean), 0)
        d_scale += tl.sum(factor * product, 0)
        d_bias += tl.sum(total, 0)
    of_batch *= batch_factor
    biases = _of_channel(bias, channel, is_channel)
    biases -= _of_channel(instance_bias, channel, is_channel)
    of_gate = batch_weight * of_batch - own_weight * d_scale + biases * d_bias
    out = of_parameters + channel
    tl.store(out, of_gate, mask=is_channel)
    tl.store(out + channels, rho * of_batch, mask=is_channel)
    tl.store(out + 2 * channels, rho * d_bias, mask=is_channel)
    tl.store(out + 3 * channels, (1 - rho) * d_scale, mask=is_channel)
    tl.store(out + 4 * channels, (1 - rho) * d_bias, mask=is_channel)
    if abc is not None:
        batch_scale = rho * batch_weight * batch_factor
        slope = tl.zeros((C,), tl.float32)
        constant = tl.zeros((C,), tl.float32)
        if TRAINING:
            count = samples * 1.0 * pixels
            slope = batch_scale * batch_factor * of_batch / -count
            constant = batch_scale * d_bias / -count - slope * batch_mean
        for first in range(0, samples, N):
            place, exists = _samples_of_channels(first, samples, channel, channels, N)
            total, product = _joined_sums(of_chunks, place, exists, chunks, all_rows)
            mean, factor = _mean_and_factor(instance, place, exists, all_rows, eps)
            own_scale = (1 - rho) * own_weight * factor
            b = own_scale * factor * factor * product / -pixels
            c = own_scale * total / -pixels - b * mean
            tl.store(abc + place, batch_scale + own_scale, mask=exists)
            tl.store(abc + all_rows + place, b + slope, mask=exists)
            tl.store(abc + 2 * all_rows + place, c + constant, mask=exists)


# fmt: off
@triton.jit
def combination(
    gradient, x, of_x, abc, rows, pixels,
    LAST: constexpr, V: constexpr, R: constexpr, P: constexpr,
):
# fmt: on
    """``of_x = a * gradient + b * x + c``."""
    _row, at, exists, places, there = _tile(rows, pixels, LAST, V, R, P)
    all_rows = tl.num_programs(2).to(tl.int64) * rows
    values = tl.load(x + places, mask=there).to(tl.float32)
    values = values * tl.load(abc + all_rows + at, mask=exists)[:, None]
    slopes = tl.load(gradient + places, mask=there).to(tl.float32)
    values += slopes * tl.load(abc + at, mask=exists)[:, None]
    values += tl.load(abc + 2 * all_rows + at, mask=exists)[:, None]
    tl.store(of_x + places, values, mask=there)
