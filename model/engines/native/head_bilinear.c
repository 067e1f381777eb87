/* Masks and confidences of the canvas' size by bilinear interpolation. A class with the largest logit at both
   ends of a line also has it everywhere between them, because interpolation is linear. So all classes are
   compared only where the two ends differ. */
#include "head_job.h"

/* Interpolates between the cells above and below. */
void head_blend_cells(const struct head_job *job, int tile_y, int dy, float *ends)
{
    int line = (job->width + 2) * job->head->classes;
    const float *above = job->cells + (long)tile_y * line, *below = above + line;
    float share = (dy + .5f) / job->head->side;
    for (int i = 0; i < line; i++)
        ends[i] = above[i] + (below[i] - above[i]) * share;
}

static int best_class(const float *logits, int classes)
{
    int best = 0;
    for (int class = 1; class < classes; class++)
        if (logits[class] > logits[best])
            best = class;
    return best;
}

/* Computes the confidences of a tile's row. */
INLINE void measure_between(const float *from, const float *to, int classes, uint8_t *confidences, int side)
{
    float logits[MAX_CLASSES * SIMD_WIDTH];
    for (int c = 0; c * SIMD_WIDTH < side; c++) {
        vec share = shares_between(c, side);
        for (int class = 0; class < classes; class++)
            store(logits + class * SIMD_WIDTH, from[class] + (to[class] - from[class]) * share);
        write_confidences(confidences + c * SIMD_WIDTH, logits, SIMD_WIDTH, classes, SIMD_WIDTH);
    }
}

INLINE void fill_tiles(const struct head_job *job, int tile_y, float *ends, int side)
{
    int classes = job->head->classes;
    for (int dy = 0; dy < side; dy++) {
        int y = tile_y * side - side / 2 + dy;
        if (y < 0 || y >= job->region.output_height)
            continue;
        head_blend_cells(job, tile_y, dy, ends);
        int left = best_class(ends, classes);
        for (int tile_x = 0; tile_x < tile_columns(job); tile_x++) {
            const float *from = ends + tile_x * classes, *to = from + classes;
            int right = best_class(to, classes);
            uint8_t labels[TILE];
            if (job->confidence) {
                measure_between(from, to, classes, labels, side);
            } else if (left == right) {
                memset(labels, left, side);
            } else {
                for (int c = 0; c * SIMD_WIDTH < side; c++) {
                    vec share = shares_between(c, side), best = from[0] + (to[0] - from[0]) * share;
                    int_vec label = {0};
                    for (int class = 1; class < classes; class++)
                        take_larger(from[class] + (to[class] - from[class]) * share, class, &best, &label);
                    write_labels(labels + c * SIMD_WIDTH, label, SIMD_WIDTH);
                }
            }
            write_tile_row(job, y, tile_x, labels, side);
            left = right;
        }
    }
}

/* Computes a row of tiles. */
void head_bilinear_task(void *context, int tile_y, int thread)
{
    const struct head_job *job = context;
    WITH_SIDE(job->head, fill_tiles, job, tile_y, job->scratch + thread * job->scratch_floats);
}
