/* The transforms of one patch: from inputs to positions, and from the positions' sums to outputs. */
#ifndef WINOGRAD_TRANSFORM_H
#define WINOGRAD_TRANSFORM_H

#include "winograd.h"

/* The matrix B^T times a vector of inputs. Inputs and results are `apart` vectors apart. */
INLINE void transform_inputs(const vec *d, int apart, vec *to)
{
    const vec d0 = d[0], d1 = d[apart], d2 = d[2 * apart], d3 = d[3 * apart], d4 = d[4 * apart];
    const vec a = d4 - 4 * d2, b = d3 - 4 * d1, c = d4 - d2, e = 2 * (d3 - d1);
    to[0] = 4 * d0 - 5 * d2 + d4;
    to[apart] = a + b;
    to[2 * apart] = a - b;
    to[3 * apart] = c + e;
    to[4 * apart] = c - e;
    to[5 * apart] = 4 * d1 - 5 * d3 + d[5 * apart];
}

/* The matrix A^T times a vector of sums: PATCH outputs. */
INLINE void transform_outputs(const vec *m, int apart, vec *to, int to_apart)
{
    const vec plus = m[apart] + m[2 * apart], minus = m[apart] - m[2 * apart];
    const vec plus_2 = m[3 * apart] + m[4 * apart], minus_2 = m[3 * apart] - m[4 * apart];
    to[0] = m[0] + plus + plus_2;
    to[to_apart] = minus + 2 * minus_2;
    to[2 * to_apart] = plus + 4 * plus_2;
    to[3 * to_apart] = minus + 8 * minus_2 + m[5 * apart];
}

/* Transforms one patch of one block of channels to its positions, which are `position` floats apart. */
INLINE void transform_input_patch(const float *from, long row, float *to, long position)
{
    vec inputs[POSITIONS], halfway[POSITIONS];
#pragma GCC unroll 6
    for (int y = 0; y < INPUT_PATCH; y++)
#pragma GCC unroll 6
        for (int x = 0; x < INPUT_PATCH; x++)
            inputs[y * INPUT_PATCH + x] = load(from + y * row + x * SIMD_WIDTH);
#pragma GCC unroll 6
    for (int x = 0; x < INPUT_PATCH; x++)
        transform_inputs(inputs + x, INPUT_PATCH, halfway + x);
#pragma GCC unroll 6
    for (int y = 0; y < INPUT_PATCH; y++)
        transform_inputs(halfway + y * INPUT_PATCH, 1, inputs + y * INPUT_PATCH);
#pragma GCC unroll 36
    for (int p = 0; p < POSITIONS; p++)
        store(to + p * position, inputs[p]);
}

INLINE void transform_output_patch(const float *from, long position, vec *to)
{
    vec sums[POSITIONS], halfway[PATCH * INPUT_PATCH];
#pragma GCC unroll 36
    for (int p = 0; p < POSITIONS; p++)
        sums[p] = load(from + p * position);
#pragma GCC unroll 6
    for (int x = 0; x < INPUT_PATCH; x++)
        transform_outputs(sums + x, INPUT_PATCH, halfway + x, INPUT_PATCH);
#pragma GCC unroll 4
    for (int y = 0; y < PATCH; y++)
        transform_outputs(halfway + y * INPUT_PATCH, 1, to + y * PATCH, 1);
}

#endif
