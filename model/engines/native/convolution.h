/* Convolutions of float32 feature maps: by Winograd's algorithm for size 3 and stride 1, else direct.

   The order in which an output is summed depends on the layer alone, so the result does not depend on the
   number of threads. Knows nothing of the network. */
#ifndef CONVOLUTION_H
#define CONVOLUTION_H

#include "feature_map.h"
#include "thread_pool.h"

struct convolution {
    int in_channels, out_channels; /* multiples of SIMD_WIDTH, of GROUP_CHANNELS */
    int size, stride;
    int winograd;   /* whether it uses Winograd's algorithm: size 3 and stride 1 */
    float *weights; /* in the order in which they are read */
    float *bias;    /* (out_channels) */
};

/* Packs `kernel` (out, in, size, size) and `bias` (out). Any number of channels is padded with zeros. Returns
   0, or -1 without memory. */
int convolution_pack(struct convolution *convolution, const float *kernel, const float *bias, int out, int in,
                     int size, int stride);
void convolution_free(struct convolution *convolution);

/* The scratch memory, in floats, that each thread needs for an output of this size. */
long convolution_scratch(const struct convolution *convolution, int height, int width, int threads);

/* Computes `to`, the convolution of `from`, plus `shortcut` unless it is NULL, rectified if `relu`. `to` may
   be `shortcut`. The border of `from` must be zero. Each thread has `scratch_floats` of `scratch`. */
void convolve(struct thread_pool *pool, const struct convolution *convolution, const struct feature_map *from,
              const struct feature_map *shortcut, int relu, const struct feature_map *to, float *scratch,
              long scratch_floats);

#endif
