#include "head_band.h"

#include "product.h"

/* Interpolates a row of pixels between the logits at the ends of its tiles. */
INLINE void interpolate_row(const struct head_job *job, const float *ends, float *to, long plane, int side)
{
    int classes = job->head->classes;
    for (int x = 0; x < tile_columns(job); x++)
        for (int class = 0; class < classes; class++) {
            float from = ends[x * classes + class], end = ends[(x + 1) * classes + class];
            for (int c = 0; c * SIMD_WIDTH < side; c++)
                store(to + class * plane + x * side + c * SIMD_WIDTH,
                      from + (end - from) * shares_between(c, side));
        }
}

static void fill_row(const struct head_job *job, const struct band *band, int row, int tile_y, float *scratch)
{
    int classes = job->head->classes, columns = tile_columns(job), side = job->head->side;
    int at = tile_y + row / side, dy = row % side;
    float *to = band->logits + row * band->line;
    if (!job->head->kernel) {
        head_blend_cells(job, at, dy, scratch);
        WITH_SIDE(job->head, interpolate_row, job, scratch, to, band->plane);
        return;
    }
    for (int x = 0; x < columns; x += PRODUCT_ROWS) {
        int tiles = MIN(PRODUCT_ROWS, columns - x);
        head_dense_rows(job, at * columns + x, tiles, dy, scratch);
        for (int class = 0; class < classes; class++)
            memcpy(to + class * band->plane + x * TILE, scratch + class * PRODUCT_ROWS * TILE,
                   tiles * TILE * sizeof *to);
    }
}

struct band head_fill_band(const struct head_job *job, int tile_y, float *scratch)
{
    const struct head *head = job->head;
    int side = head->side, top = tile_y * side - side / 2;
    struct band band = {.line = band_line(head, job->width), .top = top};
    band.plane = band_rows(head) * band.line;
    band.logits = scratch + row_floats(head, job->width);
    band.labels = (uint8_t *)(band.logits + head->classes * band.plane);
    band.first = MAX(top, 0);
    band.last = MAX(MIN(top + side, job->region.height), band.first);
    if (band.first < band.last) {
        int rows = MIN(band_rows(head), (job->height + 1) * side - side / 2 - top);
        band.rows = MIN(rows, job->region.height - top);
    }
    for (int row = 0; row < band.rows; row++)
        fill_row(job, &band, row, tile_y, scratch);
    return band;
}
