/* The network's last step: coarse logits to a mask of any size, exactly and in little memory.

   See model/engines/tiles.py for the geometry. Knows nothing of the previous layers. */
#ifndef HEAD_H
#define HEAD_H

#include "feature_map.h"
#include "thread_pool.h"

/* A mask has one byte per pixel, and 255 is void. */
#define MAX_CLASSES 255

struct head {
    int classes;   /* 1 to MAX_CLASSES */
    int side;      /* of the tiles between coarse logits: 32, 16 or 8 pixels */
    float *kernel; /* dense: (32, classes, 4 * classes, 32), see head_pack; NULL: exactly bilinear */
    float *bias;   /* (classes) */
};

/* The size of the image in the upper left of a canvas, and the size of its mask. */
struct region {
    int32_t height, width, output_height, output_width;
};

/* `kernel` has, for each row of a tile and each class, the weights of the 4 * classes surrounding coarse
   logits (upper left, upper right, lower left, lower right) for the row's 32 pixels. It is NULL for bilinear
   interpolation; only then may `side` differ from 32. Returns 0, or -1 without memory. */
int head_pack(struct head *head, const float *kernel, const float *bias, int classes, int side);
void head_free(struct head *head);

/* The scratch memory in floats: for a canvas of height x width coarse logits, and in addition for each
   thread. */
long head_shared_scratch(const struct head *head, int height, int width, int output_width);
long head_scratch(const struct head *head, int width, int scaled);

/* `coarse`: a feature map of at least `classes` channels. `mask`: output_height x output_width. With
   `confidence`, each of its bytes is not a class but its softmax, times 255 and rounded. */
void head_apply(struct thread_pool *pool, const struct head *head, const struct feature_map *coarse,
                struct region region, int confidence, uint8_t *mask, float *shared, float *scratch,
                long scratch_floats);

#endif
