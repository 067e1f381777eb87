/* The inner step of every product: PRODUCT_ROWS x PRODUCT_VECTORS sums that stay in registers.

   `rows` is a constant where these are called, so that the loops vanish. */
#ifndef PRODUCT_H
#define PRODUCT_H

#include "vector.h"

/* Adds to each row's sums its value, `apart` floats after the one before, times PRODUCT_VECTORS vectors of
 * weights.
 */
INLINE void add_products(int rows, vec sums[PRODUCT_ROWS][PRODUCT_VECTORS], const float *values, int apart,
                         const float *weights)
{
    vec weight[PRODUCT_VECTORS];
#pragma GCC unroll 4
    for (int c = 0; c < PRODUCT_VECTORS; c++)
        weight[c] = load(weights + c * SIMD_WIDTH);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        vec value = splat(values[r * apart]);
#pragma GCC unroll 4
        for (int c = 0; c < PRODUCT_VECTORS; c++)
            sums[r][c] += value * weight[c];
    }
}

/* Rows and columns of vectors lie `row` and `column` floats apart. */
INLINE void store_sums(int rows, vec sums[PRODUCT_ROWS][PRODUCT_VECTORS], float *to, long row, long column)
{
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < PRODUCT_VECTORS; c++)
            store(to + r * row + c * column, sums[r][c]);
}

#endif
