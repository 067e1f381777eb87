/* Coarse logits of twice the height and width: a transposed convolution of kernel 4, stride 2 and padding 1.

   Trained or bilinear alike. It costs little, so it knows no faster way for the bilinear kernel. */
#ifndef DOUBLING_H
#define DOUBLING_H

#include "feature_map.h"
#include "thread_pool.h"

struct doubling {
    int classes, channels; /* channels: the classes, up to a multiple of GROUP_CHANNELS */
    float *weights;        /* (4, 4, classes, channels): row, column, input, output */
};

/* `kernel` (classes, classes, 4, 4), inputs first. 0, or -1 without memory. */
int doubling_pack(struct doubling *doubling, const float *kernel, int classes);
void doubling_free(struct doubling *doubling);

/* Adds to `to` what `from`, of half its size, becomes. The border of `from` must be zero. */
void add_doubled(struct thread_pool *pool, const struct doubling *doubling, const struct feature_map *from,
                 const struct feature_map *to);

#endif
