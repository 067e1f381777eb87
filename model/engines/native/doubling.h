/* Doubles the height and width of coarse logits: a transposed convolution of kernel 4, stride 2 and
   padding 1.

   It takes little time, so there is no faster code for a bilinear kernel. */
#ifndef DOUBLING_H
#define DOUBLING_H

#include "feature_map.h"
#include "thread_pool.h"

struct doubling {
    int classes, channels; /* channels: the classes, rounded up to a multiple of GROUP_CHANNELS */
    float *weights;        /* (4, 4, classes, channels): row, column, input, output */
};

/* Packs `kernel` (classes, classes, 4, 4), inputs first. Returns 0, or -1 without memory. */
int doubling_pack(struct doubling *doubling, const float *kernel, int classes);
void doubling_free(struct doubling *doubling);

/* Doubles `from` and adds it to `to`, which has twice its size. The border of `from` must be zero. */
void add_doubled(struct thread_pool *pool, const struct doubling *doubling, const struct feature_map *from,
                 const struct feature_map *to);

#endif
