/* AMX, which multiplies bfloat16 matrices in registers of 16 rows, and conversions to and from bfloat16.

   Include it after the other headers, because the functions after it are compiled for AMX, and include
   amx_end.h at the end of the file. */
#ifndef AMX_H
#define AMX_H

#include "vector.h"

/* Clang's headers declare the features of each intrinsic. */
#ifndef __clang__
#pragma GCC target("amx-tile,amx-bf16,avx512bf16")
#endif
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16,avx512bf16"))), apply_to = function)
#endif

/* One AMX register: 16 rows of 32 bfloat16, or of 16 float32. */
#define AMX_ROWS 16
#define AMX_DEPTH 32 /* channels of a block, and what one product sums over */
#define AMX_VALUES (AMX_ROWS * AMX_DEPTH)
#define AMX_OUTPUTS 32 /* output channels of one product: two registers */

typedef uint16_t bfloat;

static inline void configure_amx(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int number = 0; number < 8; number++) {
        config.row_bytes[number] = 64;
        config.rows[number] = AMX_ROWS;
    }
    _tile_loadconfig(&config);
}

INLINE bfloat round_to_bfloat16(float value)
{
    return (bfloat)_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(value)), 0);
}

INLINE void store_bfloat16(bfloat *to, __m512 values)
{
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values));
}

INLINE __m512 load_bfloat16(const bfloat *from)
{
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}

/* Packs the right operand of a product: pairs of inputs, which are adjacent for each output. */
static inline void pack_register(bfloat *to, const float *kernel, int first_out, int out, int first_in,
                                 int in, long out_apart, long in_apart)
{
    for (int pair = 0; pair < AMX_DEPTH / 2; pair++)
        for (int o = 0; o < 16; o++)
            for (int k = 0; k < 2; k++) {
                int from = first_in + 2 * pair + k, output = first_out + o;
                float value = from < in && output < out ? kernel[output * out_apart + from * in_apart] : 0;
                *to++ = round_to_bfloat16(value);
            }
}

#endif
