/* Convolutions of float32 feature maps: Winograd's for size 3 and stride 1, and direct ones.

   Each output is summed in an order that depends on nothing but the layer, so it is the same however
   many threads share the work. Knows nothing of the network. */
#ifndef CONVOLUTION_H
#define CONVOLUTION_H

#include "feature_map.h"
#include "thread_pool.h"

struct convolution {
    int in_channels, out_channels; /* multiples of SIMD_WIDTH, of GROUP_CHANNELS */
    int size, stride;
    int winograd;   /* whether it is Winograd's: size 3 and stride 1 */
    float *weights; /* in the order in which they are read */
    float *bias;    /* (out_channels) */
};

/* `kernel` (out, in, size, size) and `bias` (out) of any channel counts, which are padded with zeros. 0,
   or -1 without memory. */
int convolution_pack(struct convolution *convolution, const float *kernel, const float *bias, int out, int in,
                     int size, int stride);
void convolution_free(struct convolution *convolution);

/* Floats of scratch memory that each thread needs for an output of this size. */
long convolution_scratch(const struct convolution *convolution, int height, int width, int threads);

/* `to` becomes the convolution of `from`, plus `shortcut` unless it is NULL, rectified if `relu`. `to` may
   be `shortcut`. The border of `from` must be zero. `scratch`: of each thread, `scratch_floats` apart. */
void convolve(struct thread_pool *pool, const struct convolution *convolution, const struct feature_map *from,
              const struct feature_map *shortcut, int relu, const struct feature_map *to, float *scratch,
              long scratch_floats);

#endif
