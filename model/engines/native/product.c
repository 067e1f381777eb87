/* There is a function for each number of rows and each step, so that the sums stay in registers. */
#include "product.h"

/* Weights are prefetched this many floats ahead, because the processor's own prefetching stops at the end of
   each page. */
#define PREFETCH_FLOATS 1024
#define CACHE_LINE_FLOATS 16

INLINE void sum_products(int rows, int step, const float *x, long block, long row, int blocks, int size,
                         const float *weights, float *to, long column)
{
    vec sums[PRODUCT_ROWS][PRODUCT_VECTORS] = {0};
    for (int b = 0; b < blocks; b++)
        for (int dy = 0; dy < size; dy++)
            for (int dx = 0; dx < size; dx++) {
                const float *from = x + b * block + dy * row + dx * SIMD_WIDTH;
                for (int k = 0; k < SIMD_WIDTH; k++, weights += GROUP_CHANNELS) {
                    for (int c = 0; c < GROUP_CHANNELS; c += CACHE_LINE_FLOATS)
                        __builtin_prefetch(weights + PREFETCH_FLOATS + c);
                    add_products(rows, sums, from + k, step * SIMD_WIDTH, weights);
                }
            }
    store_sums(rows, sums, to, SIMD_WIDTH, column);
}

#define PRODUCT(step, rows)                                                                                  \
    static void product_##step##_##rows(const float *x, long block, long row, int blocks, int size,          \
                                        const float *weights, float *to, long column)                        \
    {                                                                                                        \
        sum_products(rows, step, x, block, row, blocks, size, weights, to, column);                          \
    }
#define PRODUCTS(step)                                                                                       \
    PRODUCT(step, 1) PRODUCT(step, 2) PRODUCT(step, 3) PRODUCT(step, 4) PRODUCT(step, 5) PRODUCT(step, 6)
#define NAMES(step)                                                                                          \
    product_##step##_1, product_##step##_2, product_##step##_3, product_##step##_4, product_##step##_5,      \
        product_##step##_6
#if PRODUCT_ROWS == 12
#define MORE_PRODUCTS(step)                                                                                  \
    PRODUCT(step, 7) PRODUCT(step, 8) PRODUCT(step, 9) PRODUCT(step, 10) PRODUCT(step, 11) PRODUCT(step, 12)
#define MORE_NAMES(step)                                                                                     \
    , product_##step##_7, product_##step##_8, product_##step##_9, product_##step##_10, product_##step##_11,  \
        product_##step##_12
#else
#define MORE_PRODUCTS(step)
#define MORE_NAMES(step)
#endif

/* clang-format off */
PRODUCTS(1) MORE_PRODUCTS(1) PRODUCTS(2) MORE_PRODUCTS(2)
const product products[2][PRODUCT_ROWS] = {{NAMES(1) MORE_NAMES(1)}, {NAMES(2) MORE_NAMES(2)}};
/* clang-format on */
