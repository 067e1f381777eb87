/* The network's first layers in one go: uint8 RGB, normalised, convolution of size 7 and stride 2,
   rectified, 3 x 3 maximum with stride 2. Knows nothing of the rest. */
#ifndef STEM_H
#define STEM_H

#include "picture.h"
#include "team.h"

#define STEM_SIZE 7

struct stem {
    int channels;   /* a multiple of LANES * COLUMNS */
    float *weights; /* (channels / lanes, 7, 3, 7, lanes) */
    float *bias;
    float levels[3][256]; /* each channel's level, normalised */
};

/* `kernel` (channels, 3, 7, 7), `levels` (3, 256). 0, or -1 without memory. */
int stem_pack(struct stem *stem, const float *kernel, const float *bias, int channels, const float *levels);
void stem_free(struct stem *stem);

/* Floats of scratch memory that each worker needs for a canvas of this width. */
long stem_scratch(const struct stem *stem, int width);

/* A canvas (4 * to->height, 4 * to->width, 3) to the picture behind the maximum. */
void stem_apply(struct team *team, const struct stem *stem, const uint8_t *canvas, const struct picture *to,
                float *scratch, long scratch_floats);

#endif
