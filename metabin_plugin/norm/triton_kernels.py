"""The kernels of BIN on a GPU: three launches forward, three backward, two in evaluation.

A map is blocks of rows, one row for each sample and channel, of pixels. In a contiguous map there
is one block of N * C rows, whose pixels lie together; in channels_last the N samples are blocks of
C rows, and those lie together. A program takes a tile of rows and pixels of one block. Values for
each row, (N, C), lie in the same order in both. All arithmetic is float32.

Where there are too few rows to fill a device, ``statistics`` and ``sums`` split the pixels of a row
into chunks, each of a program of its own, and the kernels after them join these. Formulas are those
of ``formula.py``, under the names that they have there.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Values that differ from layer to layer and are not worth a compiled version each.
_GENERAL = ["samples", "channels", "chunk", "chunks", "all_rows"]
_GENERAL_BETWEEN = [*_GENERAL, "pixels"]


@triton.jit
def _rows_of_tile(rows, R: tl.constexpr):
    """Numbers of a program's rows in their block, places in (N, C), and whether they exist."""
    row = tl.program_id(0) * R + tl.arange(0, R)
    return row, tl.program_id(2).to(tl.int64) * rows + row, row < rows


@triton.jit
def _places(row, rows, pixel, pixels, LAST: tl.constexpr):
    """Places in the map of a tile of rows and pixels; the last dimension is the contiguous one."""
    if LAST:
        block = tl.program_id(2).to(tl.int64) * rows * pixels
        return block + pixel[:, None].to(tl.int64) * rows + row[None, :]
    else:
        return row[:, None].to(tl.int64) * pixels + pixel[None, :]


@triton.jit
def _both(row_values, pixel_values, LAST: tl.constexpr):
    """Whether a row and a pixel both exist, for a tile."""
    if LAST:
        return pixel_values[:, None] & row_values[None, :]
    else:
        return row_values[:, None] & pixel_values[None, :]


@triton.jit
def _spread(row_values, LAST: tl.constexpr):
    """One value for each row, to be broadcast over a tile."""
    if LAST:
        return row_values[None, :]
    else:
        return row_values[:, None]


@triton.jit
def _zeros(LAST: tl.constexpr, R: tl.constexpr, P: tl.constexpr):
    if LAST:
        return tl.zeros((P, R), tl.float32)
    else:
        return tl.zeros((R, P), tl.float32)


@triton.jit(do_not_specialize=["all_rows"])
def statistics(
    x,
    mean,
    var,
    rows,
    pixels,
    chunk,
    all_rows,
    LAST: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
):
    """Mean and biased variance of each chunk of each row, both (chunks, N, C).

    Every place of the tile has a mean and a sum of squares of its own (Welford 1962), so that
    neither a large mean nor a bright pixel cancels what the others add.
    """
    AXIS: tl.constexpr = 0 if LAST else 1
    row, out, exists = _rows_of_tile(rows, R)
    start = tl.program_id(1) * chunk
    end = tl.minimum(start + chunk, pixels)
    means = _zeros(LAST, R, P)
    squares = _zeros(LAST, R, P)
    counts = tl.zeros((P,), tl.float32)
    for first in range(start, end, P):
        pixel = first + tl.arange(0, P)
        there = _both(exists, pixel < end, LAST)
        places = _places(row, rows, pixel, pixels, LAST)
        values = tl.load(x + places, mask=there, other=0.0).to(tl.float32)
        change = tl.where(there, values - means, 0.0)
        means += change * (1.0 / ((first - start) // P + 1))
        squares += change * (values - means)
        counts += tl.where(pixel < end, 1.0, 0.0)
    count = (end - start).to(tl.float32)
    weights = counts[:, None] if LAST else counts[None, :]
    total = tl.sum(means * weights, AXIS) / count
    between = means - _spread(total, LAST)
    spread = tl.sum(squares + weights * between * between, AXIS) / count
    out += tl.program_id(1).to(tl.int64) * all_rows
    tl.store(mean + out, total, mask=exists)
    tl.store(var + out, spread, mask=exists)


@triton.jit
def _joined_statistics(means, variances, place, exists, chunks, chunk, pixels, all_rows):
    """Mean and variance of rows from those of their chunks (Chan et al. 1983)."""
    mean = tl.load(means + place, mask=exists, other=0.0)
    squares = tl.load(variances + place, mask=exists, other=0.0)
    if chunks > 1:
        count = chunk * 1.0
        squares *= count
        for k in range(1, chunks):
            there = tl.minimum(chunk, pixels - k * chunk) * 1.0
            at = place + k * tl.cast(all_rows, tl.int64)
            change = tl.load(means + at, mask=exists, other=0.0) - mean
            share = there / (count + there)
            squares += tl.load(variances + at, mask=exists, other=0.0) * there
            squares += change * change * (count * share)
            mean += change * share
            count += there
        squares /= pixels
    return mean, squares


@triton.jit
def _joined_sums(values, place, exists, chunks, all_rows):
    total = tl.load(values + place, mask=exists, other=0.0)
    for k in range(1, chunks):
        total += tl.load(values + place + k * tl.cast(all_rows, tl.int64), mask=exists, other=0.0)
    return total


@triton.jit
def _of_channel(values, channel, exists):
    return tl.load(values + channel, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _scale_and_offset(
    mean, var, batch_mean, batch_var, channel, exists, gate, weight, bias, i_weight, i_bias, eps
):
    """Eq. 1 as ``scale * (x - mean) + offset``; see ``formula.mixed_affine``."""
    rho = _of_channel(gate, channel, exists)
    batch_scale = rho * _of_channel(weight, channel, exists) * tl.rsqrt(batch_var + eps)
    instance = (1 - rho) * _of_channel(i_weight, channel, exists)
    biases = rho * _of_channel(bias, channel, exists)
    biases += (1 - rho) * _of_channel(i_bias, channel, exists)
    scale = batch_scale + instance * tl.rsqrt(var + eps)
    return scale, batch_scale * (mean - batch_mean) + biases


@triton.jit(do_not_specialize=_GENERAL_BETWEEN)
def coefficients(
    means,
    variances,
    gate,
    weight,
    bias,
    i_weight,
    i_bias,
    running_mean,
    running_var,
    counter,
    mean,
    var,
    batch,
    scale,
    offset,
    samples,
    channels,
    pixels,
    chunk,
    chunks,
    momentum,
    eps,
    TRAINING: tl.constexpr,
    N: tl.constexpr,
    C: tl.constexpr,
):
    """Joined statistics (N, C), those for the batch half (2, C), scale and offset (N, C).

    In training the running statistics are moved, unless they are None; in evaluation they are used.
    A counter is increased by 1.
    """
    # Nested, for Triton decides the first when it compiles, and the second when it runs.
    if counter is not None:  # noqa: SIM102
        if tl.program_id(0) == 0:
            tl.store(counter, tl.load(counter) + 1)
    channel = tl.program_id(0) * C + tl.arange(0, C)
    is_channel = channel < channels
    all_rows = samples * channels
    if TRAINING:
        total = tl.zeros((C,), tl.float32)
        within = tl.zeros((C,), tl.float32)
        for first in range(0, samples, N):
            sample = first + tl.arange(0, N)
            exists = (sample < samples)[:, None] & is_channel[None, :]
            place = sample[:, None].to(tl.int64) * channels + channel[None, :]
            m, v = _joined_statistics(
                means, variances, place, exists, chunks, chunk, pixels, all_rows
            )
            total += tl.sum(m, 0)
            within += tl.sum(v, 0)
        batch_mean = total / samples
        between = tl.zeros((C,), tl.float32)
        for first in range(0, samples, N):
            sample = first + tl.arange(0, N)
            exists = (sample < samples)[:, None] & is_channel[None, :]
            place = sample[:, None].to(tl.int64) * channels + channel[None, :]
            m, v = _joined_statistics(
                means, variances, place, exists, chunks, chunk, pixels, all_rows
            )
            change = tl.where(exists, m - batch_mean[None, :], 0.0)
            between += tl.sum(change * change, 0)
        batch_var = (within + between) / samples
        if running_mean is not None:
            count = samples * 1.0 * pixels
            before = _of_channel(running_mean, channel, is_channel)
            after = before + momentum * (batch_mean - before)
            tl.store(running_mean + channel, after, mask=is_channel)
            before = _of_channel(running_var, channel, is_channel)
            after = before + momentum * (batch_var * (count / (count - 1)) - before)
            tl.store(running_var + channel, after, mask=is_channel)
    else:
        batch_mean = _of_channel(running_mean, channel, is_channel)
        batch_var = _of_channel(running_var, channel, is_channel)
    tl.store(batch + channel, batch_mean, mask=is_channel)
    tl.store(batch + channels + channel, batch_var, mask=is_channel)
    for first in range(0, samples, N):
        sample = first + tl.arange(0, N)
        exists = (sample < samples)[:, None] & is_channel[None, :]
        place = sample[:, None].to(tl.int64) * channels + channel[None, :]
        m, v = _joined_statistics(means, variances, place, exists, chunks, chunk, pixels, all_rows)
        a, b = _scale_and_offset(
            m,
            v,
            batch_mean[None, :],
            batch_var[None, :],
            channel[None, :],
            is_channel[None, :],
            gate,
            weight,
            bias,
            i_weight,
            i_bias,
            eps,
        )
        tl.store(mean + place, m, mask=exists)
        tl.store(var + place, v, mask=exists)
        tl.store(scale + place, a, mask=exists)
        tl.store(offset + place, b, mask=exists)


@triton.jit
def affine(
    x, y, mean, scale, offset, rows, pixels, LAST: tl.constexpr, R: tl.constexpr, P: tl.constexpr
):
    """``y = scale * (x - mean) + offset``."""
    row, at, exists = _rows_of_tile(rows, R)
    pixel = tl.program_id(1) * P + tl.arange(0, P)
    there = _both(exists, pixel < pixels, LAST)
    places = _places(row, rows, pixel, pixels, LAST)
    values = tl.load(x + places, mask=there).to(tl.float32)
    values -= _spread(tl.load(mean + at, mask=exists), LAST)
    values *= _spread(tl.load(scale + at, mask=exists), LAST)
    tl.store(y + places, values + _spread(tl.load(offset + at, mask=exists), LAST), mask=there)


@triton.jit(do_not_specialize=_GENERAL)
def evaluation(
    x,
    y,
    means,
    variances,
    gate,
    weight,
    bias,
    i_weight,
    i_bias,
    running_mean,
    running_var,
    rows,
    channels,
    pixels,
    chunk,
    chunks,
    all_rows,
    eps,
    LAST: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
):
    """Eq. 1 with running statistics, from the statistics of the chunks."""
    row, at, exists = _rows_of_tile(rows, R)
    channel = row % channels
    m, v = _joined_statistics(means, variances, at, exists, chunks, chunk, pixels, all_rows)
    scale, offset = _scale_and_offset(
        m,
        v,
        _of_channel(running_mean, channel, exists),
        _of_channel(running_var, channel, exists),
        channel,
        exists,
        gate,
        weight,
        bias,
        i_weight,
        i_bias,
        eps,
    )
    pixel = tl.program_id(1) * P + tl.arange(0, P)
    there = _both(exists, pixel < pixels, LAST)
    places = _places(row, rows, pixel, pixels, LAST)
    values = tl.load(x + places, mask=there).to(tl.float32) - _spread(m, LAST)
    values = values * _spread(scale, LAST) + _spread(offset, LAST)
    tl.store(y + places, values, mask=there)


@triton.jit(do_not_specialize=["all_rows"])
def sums(
    gradient,
    x,
    mean,
    totals,
    products,
    rows,
    pixels,
    chunk,
    all_rows,
    LAST: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
):
    """Sums of ``gradient`` and of ``gradient * (x - mean)`` over chunks of rows, (chunks, N, C)."""
    AXIS: tl.constexpr = 0 if LAST else 1
    row, at, exists = _rows_of_tile(rows, R)
    start = tl.program_id(1) * chunk
    end = tl.minimum(start + chunk, pixels)
    centre = _spread(tl.load(mean + at, mask=exists, other=0.0), LAST)
    total = _zeros(LAST, R, P)
    product = _zeros(LAST, R, P)
    for first in range(start, end, P):
        pixel = first + tl.arange(0, P)
        there = _both(exists, pixel < end, LAST)
        places = _places(row, rows, pixel, pixels, LAST)
        slopes = tl.load(gradient + places, mask=there, other=0.0).to(tl.float32)
        total += slopes
        product += slopes * (tl.load(x + places, mask=there, other=0.0).to(tl.float32) - centre)
    at += tl.program_id(1).to(tl.int64) * all_rows
    tl.store(totals + at, tl.sum(total, AXIS), mask=exists)
    tl.store(products + at, tl.sum(product, AXIS), mask=exists)


@triton.jit(do_not_specialize=_GENERAL_BETWEEN)
def gradients(
    totals,
    products,
    mean,
    var,
    batch,
    gate,
    weight,
    bias,
    i_weight,
    i_bias,
    a,
    b,
    c,
    of_gate,
    of_weight,
    of_bias,
    of_i_weight,
    of_i_bias,
    samples,
    channels,
    pixels,
    chunks,
    eps,
    TRAINING: tl.constexpr,
    N: tl.constexpr,
    C: tl.constexpr,
):
    """The gradient of ``formula.mixed_affine_gradient``; of outputs that are None, nothing."""
    channel = tl.program_id(0) * C + tl.arange(0, C)
    is_channel = channel < channels
    all_rows = samples * channels
    rho = _of_channel(gate, channel, is_channel)
    batch_weight = _of_channel(weight, channel, is_channel)
    instance_weight = _of_channel(i_weight, channel, is_channel)
    batch_mean = _of_channel(batch, channel, is_channel)
    batch_factor = tl.rsqrt(_of_channel(batch + channels, channel, is_channel) + eps)
    d_batch_scale = tl.zeros((C,), tl.float32)
    d_instance_scale = tl.zeros((C,), tl.float32)
    d_bias = tl.zeros((C,), tl.float32)
    for first in range(0, samples, N):
        sample = first + tl.arange(0, N)
        exists = (sample < samples)[:, None] & is_channel[None, :]
        place = sample[:, None].to(tl.int64) * channels + channel[None, :]
        total = _joined_sums(totals, place, exists, chunks, all_rows)
        product = _joined_sums(products, place, exists, chunks, all_rows)
        factor = tl.rsqrt(tl.load(var + place, mask=exists, other=1.0) + eps)
        from_batch = tl.load(mean + place, mask=exists, other=0.0) - batch_mean[None, :]
        d_batch_scale += tl.sum(product + total * from_batch, 0)
        d_instance_scale += tl.sum(factor * product, 0)
        d_bias += tl.sum(total, 0)
    if of_gate is not None:
        of_biases = _of_channel(bias, channel, is_channel)
        of_biases -= _of_channel(i_bias, channel, is_channel)
        slope = batch_weight * batch_factor * d_batch_scale - instance_weight * d_instance_scale
        tl.store(of_gate + channel, slope + of_biases * d_bias, mask=is_channel)
    if of_weight is not None:
        tl.store(of_weight + channel, rho * batch_factor * d_batch_scale, mask=is_channel)
    if of_bias is not None:
        tl.store(of_bias + channel, rho * d_bias, mask=is_channel)
    if of_i_weight is not None:
        tl.store(of_i_weight + channel, (1 - rho) * d_instance_scale, mask=is_channel)
    if of_i_bias is not None:
        tl.store(of_i_bias + channel, (1 - rho) * d_bias, mask=is_channel)
    if a is not None:
        batch_scale = rho * batch_weight * batch_factor
        d_batch_mean = -batch_scale * d_bias
        d_batch_var = -0.5 * batch_factor * batch_factor * batch_scale * d_batch_scale
        for first in range(0, samples, N):
            sample = first + tl.arange(0, N)
            exists = (sample < samples)[:, None] & is_channel[None, :]
            place = sample[:, None].to(tl.int64) * channels + channel[None, :]
            total = _joined_sums(totals, place, exists, chunks, all_rows)
            product = _joined_sums(products, place, exists, chunks, all_rows)
            factor = tl.rsqrt(tl.load(var + place, mask=exists, other=1.0) + eps)
            instance_scale = ((1 - rho) * instance_weight)[None, :] * factor
            d_mean = -instance_scale * total
            d_var = -0.5 * factor * factor * instance_scale * product
            if TRAINING:
                from_batch = tl.load(mean + place, mask=exists, other=0.0) - batch_mean[None, :]
                d_mean += (d_batch_mean[None, :] + 2 * d_batch_var[None, :] * from_batch) / samples
                d_var += d_batch_var[None, :] / samples
            tl.store(a + place, batch_scale[None, :] + instance_scale, mask=exists)
            tl.store(b + place, d_var * (2.0 / pixels), mask=exists)
            tl.store(c + place, d_mean / pixels, mask=exists)


@triton.jit
def combination(
    gradient,
    x,
    of_x,
    mean,
    a,
    b,
    c,
    rows,
    pixels,
    LAST: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
):
    """``of_x = a * gradient + b * (x - mean) + c``."""
    row, at, exists = _rows_of_tile(rows, R)
    pixel = tl.program_id(1) * P + tl.arange(0, P)
    there = _both(exists, pixel < pixels, LAST)
    places = _places(row, rows, pixel, pixels, LAST)
    values = tl.load(x + places, mask=there).to(tl.float32)
    values -= _spread(tl.load(mean + at, mask=exists), LAST)
    values *= _spread(tl.load(b + at, mask=exists), LAST)
    slopes = tl.load(gradient + places, mask=there).to(tl.float32)
    values += slopes * _spread(tl.load(a + at, mask=exists), LAST)
    tl.store(of_x + places, values + _spread(tl.load(c + at, mask=exists), LAST), mask=there)
