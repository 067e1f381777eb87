/* Convolutions in bfloat16 on AMX. Only for processors with AVX-512. */
#ifndef BFLOAT16_CONVOLUTION_H
#define BFLOAT16_CONVOLUTION_H

#include "feature_map.h"
#include "thread_pool.h"
#include "bfloat16_feature_map.h"

struct bfloat16_convolution {
    int in_channels, out_channels, size, stride;
    bfloat *weights; /* (groups, blocks, size, size, 2 tiles, 16 pairs, 16 outputs, 2) */
    float *bias;
};

/* Like `convolve`. `logits` is NULL, or a float32 feature map that gets the sums instead of `to`. */
void bfloat16_convolve(struct thread_pool *pool, const struct bfloat16_convolution *convolution,
                       const struct bfloat16_feature_map *from, const struct bfloat16_feature_map *shortcut,
                       int relu, const struct bfloat16_feature_map *to, const struct feature_map *logits);

/* Like `convolution_pack`. The input channels must be a multiple of AMX_DEPTH. */
int bfloat16_convolution_pack(struct bfloat16_convolution *convolution, const float *kernel,
                              const float *bias, int out, int in, int size, int stride);
void bfloat16_convolution_free(struct bfloat16_convolution *convolution);

#endif
