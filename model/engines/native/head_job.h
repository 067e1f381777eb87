/* The data and functions that all tasks of the head share: the geometry of tiles, the choice of a class, the
   confidence in it. */
#ifndef HEAD_JOB_H
#define HEAD_JOB_H

#include "head.h"

#define TILE 32 /* the side of the largest tiles; the dense product has no others */
#define HALF (TILE / 2)
#define TILE_VECTORS (TILE / SIMD_WIDTH) /* vectors in such a tile's row */

/* Calls an inline function with the side of the head's tiles, for which its code is compiled. */
#define WITH_SIDE(head, function, ...)                                                                       \
    do {                                                                                                     \
        if ((head)->side == TILE)                                                                            \
            function(__VA_ARGS__, TILE);                                                                     \
        else if ((head)->side == TILE / 2)                                                                   \
            function(__VA_ARGS__, TILE / 2);                                                                 \
        else                                                                                                 \
            function(__VA_ARGS__, TILE / 4);                                                                 \
    } while (0)

/* `cells` are the coarse logits with a frame of zeros: as in gather_columns for the dense product, or as in
   gather_cells for interpolation. */
struct head_job {
    const struct head *head;
    struct region region;
    int height, width; /* of the coarse logits */
    const float *cells;
    const float *shares; /* of a scaled mask: for each column, its distance from its source column */
    const int *starts;   /* of a scaled mask: the first column of each source column, and the end */
    int confidence;      /* what each byte becomes: the confidence, or the class */
    uint8_t *mask;
    float *scratch;
    long scratch_floats;
};

/* The floats of one row of tiles: the logits of PRODUCT_ROWS tiles, or the logits at the tiles' ends. */
INLINE long row_floats(const struct head *head, int width)
{
    return head->classes * MAX(PRODUCT_ROWS * TILE, width + 2L);
}

/* The rows of pixels that a task of a scaled mask computes, and the floats of one row: the last vector of a
   small tile may reach past the row's end. */
INLINE int band_rows(const struct head *head) { return head->side + 1; }
INLINE long band_line(const struct head *head, int width)
{
    long pixels = (width + 1L) * head->side;
    return head->side % SIMD_WIDTH ? (pixels / SIMD_WIDTH + 2) * SIMD_WIDTH : pixels;
}

INLINE int tile_columns(const struct head_job *job) { return job->width + 1; }
INLINE int tile_rows(const struct head_job *job) { return job->height + 1; }

/* Of equal logits the first class keeps the pixel. */
INLINE void take_larger(vec next, int class, vec *best, int_vec *label)
{
    int_vec larger = next > *best;
    *best = select_vec(larger, next, *best);
    *label = (larger & class) | (~larger & *label);
}

INLINE void write_labels(uint8_t *to, int_vec labels, int count)
{
    typedef uint8_t byte_vec __attribute__((vector_size(SIMD_WIDTH)));
    byte_vec bytes = __builtin_convertvector(labels, byte_vec);
    memcpy(to, &bytes, count);
}

/* Writes the softmax of the largest logit, times 255. The vectors of the classes' logits are `plane` floats
   apart. */
INLINE void write_confidences(uint8_t *to, const float *logits, long plane, int classes, int count)
{
    vec best = load(logits), total = {0};
    for (int class = 1; class < classes; class ++)
        best = maximum(best, load(logits + class * plane));
    for (int class = 0; class < classes; class ++)
        total += exponential(load(logits + class * plane) - best);
    /* The total is at least 1, unless a logit is infinite. */
    write_labels(to, __builtin_convertvector(255 / maximum(total, splat(1)) + .5f, int_vec), count);
}

/* Writes a tile's row of labels, cut at the mask's sides. */
INLINE void write_tile_row(const struct head_job *job, int y, int tile_x, const uint8_t *labels, int side)
{
    int x = tile_x * side - side / 2, first = MAX(0, -x), last = MIN(side, job->region.output_width - x);
    if (last > first)
        memcpy(job->mask + (long)y * job->region.output_width + x + first, labels + first, last - first);
}

/* Computes row `dy` of the logits of `rows` tiles from tile `first` on: (classes, PRODUCT_ROWS, 32). */
void head_dense_rows(const struct head_job *job, int first, int rows, int dy, float *logits);
void head_dense_task(void *context, int dy, int thread);

/* Computes the logits at the ends of the pixels' row `dy` in a row of tiles: (width + 2, classes). */
void head_blend_cells(const struct head_job *job, int tile_y, int dy, float *ends);
void head_bilinear_task(void *context, int tile_y, int thread);
void head_scaled_task(void *context, int tile_y, int thread);
void head_confidence_task(void *context, int tile_y, int thread);

/* Vector c of the positions of `side` pixels between two ends. */
INLINE vec shares_between(int c, int side)
{
    vec share;
    for (int i = 0; i < SIMD_WIDTH; i++)
        share[i] = (c * SIMD_WIDTH + i + .5f) / side;
    return share;
}

/* The source pixel before an output pixel, and the output pixel's distance from it: half-pixel centres, edge
   values repeated. */
INLINE int find_source_pixel(int i, int source, int output, float *share)
{
    double position = MAX((i + .5) * source / output - .5, 0.);
    int first = MIN((int)position, source - 1);
    *share = (float)(position - first);
    return first;
}

int find_first_output(int i, int source, int output);

#endif
