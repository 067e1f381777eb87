/* The inner step of every product: PRODUCT_ROWS x PRODUCT_VECTORS sums that stay in registers. */
#ifndef PRODUCT_H
#define PRODUCT_H

#include "vector.h"

/* Every call of the inline functions has a constant for `rows`, so that the compiler unrolls their loops. */

/* Adds each row's value times PRODUCT_VECTORS vectors of weights to the row's sums. Values are `apart` floats
   apart. */
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

/* Rows and columns of vectors are `row` and `column` floats apart. */
INLINE void store_sums(int rows, vec sums[PRODUCT_ROWS][PRODUCT_VECTORS], float *to, long row, long column)
{
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < PRODUCT_VECTORS; c++)
            store(to + r * row + c * column, sums[r][c]);
}

/* products[step - 1][rows - 1] sums over blocks of channels and size x size neighbours, for PRODUCT_VECTORS
   vectors of outputs of `rows` pixels that are `step` apart. */
typedef void (*product)(const float *x, long block, long row, int blocks, int size, const float *weights,
                        float *to, long column);
extern const product products[2][PRODUCT_ROWS] __attribute__((visibility("hidden")));

#endif
