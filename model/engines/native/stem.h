/* The network's first layers in one step: normalisation of uint8 RGB, convolution of size 7 and stride 2,
   ReLU, max pooling of size 3 and stride 2. Knows nothing of the other layers. */
#ifndef STEM_H
#define STEM_H

#include "feature_map.h"
#include "thread_pool.h"

#define STEM_SIZE 7

struct stem {
    int channels;   /* a multiple of GROUP_CHANNELS */
    float *weights; /* (channels / GROUP_CHANNELS, 7, 3, 7, GROUP_CHANNELS) */
    float *bias;
    float levels[3][256]; /* each channel's level, normalised */
};

/* Packs `kernel` (channels, 3, 7, 7) and `levels` (3, 256). Returns 0, or -1 without memory. */
int stem_pack(struct stem *stem, const float *kernel, const float *bias, int channels, const float *levels);
void stem_free(struct stem *stem);

/* The scratch memory, in floats, that each thread needs for a canvas of this width. */
long stem_scratch(const struct stem *stem, int width);

/* Turns a canvas (4 * to->height, 4 * to->width, 3) into the feature map after the pooling. */
void stem_apply(struct thread_pool *pool, const struct stem *stem, const uint8_t *canvas,
                const struct feature_map *to, float *scratch, long scratch_floats);

#endif
