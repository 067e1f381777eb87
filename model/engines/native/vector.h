/* Vectors as wide as the machine's registers, and how many of them a product may hold.

   Plain C with GCC's and Clang's vector extensions. Knows nothing of what is computed. */
#ifndef VECTOR_H
#define VECTOR_H

#include <stdint.h>
#include <string.h>

/* LANES floats are one register. The accumulators of a product, ROWS x COLUMNS vectors, and what it
   multiplies must fit the registers: 32 on AVX-512 and NEON, 16 on AVX2. */
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 12
#define COLUMNS 2
#elif defined(__AVX__)
#define LANES 8
#define ROWS 6
#define COLUMNS 2
#else
#define LANES 4
#define ROWS 6
#define COLUMNS 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef float unaligned_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t int_vec __attribute__((vector_size(4 * LANES), may_alias));

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
INLINE vec rectified(vec a) { return maximum(a, (vec){0}); }
INLINE int round_up(int number, int multiple) { return (number + multiple - 1) / multiple * multiple; }

#endif
