/* Vectors of the processor's register size, and the number of sums that a product keeps in registers.

   Uses the vector extensions of GCC and Clang, and no intrinsics. */
#ifndef VECTOR_H
#define VECTOR_H

#include <stdint.h>
#include <string.h>

/* SIMD_WIDTH is the number of floats in a register. A product keeps PRODUCT_ROWS x PRODUCT_VECTORS sums in
   registers, with the values that it multiplies: AVX-512 and NEON have 32 registers, AVX2 has 16. */
#if defined(__AVX512F__)
#define SIMD_WIDTH 16
#define PRODUCT_ROWS 12
#define PRODUCT_VECTORS 2
#elif defined(__AVX__)
#define SIMD_WIDTH 8
#define PRODUCT_ROWS 6
#define PRODUCT_VECTORS 2
#else
#define SIMD_WIDTH 4
#define PRODUCT_ROWS 6
#define PRODUCT_VECTORS 4
#endif

/* Output channels of one product. */
#define GROUP_CHANNELS (PRODUCT_VECTORS * SIMD_WIDTH)

typedef float vec __attribute__((vector_size(4 * SIMD_WIDTH), may_alias));
typedef float unaligned_vec __attribute__((vector_size(4 * SIMD_WIDTH), aligned(4), may_alias));
typedef int32_t int_vec __attribute__((vector_size(4 * SIMD_WIDTH), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

INLINE vec load(const float *from) { return *(const unaligned_vec *)from; }
INLINE void store(float *to, vec value) { *(unaligned_vec *)to = value; }
INLINE vec splat(float value) { return value - (vec){0}; }
INLINE vec select_vec(int_vec mask, vec yes, vec no)
{
    return (vec)((mask & (int_vec)yes) | (~mask & (int_vec)no));
}
INLINE vec maximum(vec a, vec b) { return select_vec(a > b, a, b); }
INLINE vec rectify(vec a) { return maximum(a, (vec){0}); }

/* e to the power of each x <= 0, with a relative error below 4e-7; what is smaller than e^-87 may become 0.
   x = n ln 2 + r, with ln 2 in two parts so that r is exact (Cody and Waite, Software Manual for the
   Elementary Functions, 1980, chapter 6). The polynomial is the best for |r| <= ln 2 / 2, by Lawson's
   algorithm: 1e-7 from e^r. */
INLINE vec exponential(vec x)
{
    const float rounder = 12582912; /* 1.5 * 2^23: a sum with it is rounded, and ends with the bits of n */
    vec bounded = maximum(x, splat(-87)), shifted = bounded * 1.44269504f + rounder, n = shifted - rounder;
    vec r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
    vec power = 1 + r + r * r * (.499992311f + r * (.166671142f + r * (.0418901555f + r * .00831252057f)));
    return (vec)((int_vec)power + (((int_vec)shifted) << 23));
}
INLINE int round_up(int number, int multiple) { return (number + multiple - 1) / multiple * multiple; }

#endif
