/* Confidences of a size that differs from the image's. Each row of source pixels is interpolated to the
   columns of a strip, then the pixels between two rows. */
#include "head_band.h"

/* The floats of a class' row in a strip. Two such rows fit in the memory of a row of tiles: row_floats. */
#define LINE (PRODUCT_ROWS * TILE / 2)
#define STRIP (LINE - SIMD_WIDTH)

/* Columns of the output: their source pixels, and the distances from these. */
struct strip {
    int start, width;
    int lefts[STRIP], rights[STRIP];
    float shares[STRIP];
};

static void lay_out(struct strip *strip, const struct region *region, int start)
{
    strip->start = start;
    strip->width = MIN(STRIP, region->output_width - start);
    for (int i = 0; i < strip->width; i++) {
        strip->lefts[i] =
            find_source_pixel(start + i, region->width, region->output_width, strip->shares + i);
        strip->rights[i] = MIN(strip->lefts[i] + 1, region->width - 1);
    }
}

static void stretch_row(const struct head_job *job, const struct band *band, int y, const struct strip *strip,
                        float *to)
{
    const float *row = band->logits + (y - band->top) * band->line + job->head->side / 2;
    for (int class = 0; class < job->head->classes; class++, row += band->plane, to += LINE) {
        for (int i = 0; i < strip->width; i++) {
            float left = row[strip->lefts[i]], right = row[strip->rights[i]];
            to[i] = left + (right - left) * strip->shares[i];
        }
        /* A row's first pixels follow its last, so that a vector may continue in the next output row. */
        for (int i = 0; i < SIMD_WIDTH; i++)
            to[strip->width + i] = to[i];
    }
}

INLINE float distance_down(const struct region *region, int y)
{
    float share;
    find_source_pixel(y, region->height, region->output_height, &share);
    return share;
}

/* Computes the output rows between two stretched rows. In a strip of whole rows, a vector's pixels may belong
   to several of them: a mask can be very narrow. */
static void measure_rows(const struct head_job *job, const struct strip *strip, const float *above,
                         const float *below, int first_y, int last_y)
{
    const struct region *region = &job->region;
    int classes = job->head->classes, width = strip->width, count;
    int spans_rows = width == region->output_width;
    long pixels = (long)width * (last_y - first_y);
    float logits[MAX_CLASSES * SIMD_WIDTH];
    for (long pixel = 0; pixel < pixels; pixel += count) {
        int y = first_y + (int)(pixel / width), x = (int)(pixel % width);
        vec down = splat(distance_down(region, y));
        count = (int)MIN(SIMD_WIDTH, spans_rows ? pixels - pixel : width - x);
        for (int i = width - x; i < count; i++)
            down[i] = distance_down(region, y + (x + i) / width);
        for (int class = 0; class < classes; class++) {
            vec top = load(above + class * LINE + x), bottom = load(below + class * LINE + x);
            store(logits + class * SIMD_WIDTH, top + (bottom - top) * down);
        }
        write_confidences(job->mask + (long)y * region->output_width + strip->start + x, logits, SIMD_WIDTH,
                          classes, count);
    }
}

/* Computes the output rows whose source pixel lies in one row of tiles. */
void head_confidence_task(void *context, int tile_y, int thread)
{
    const struct head_job *job = context;
    const struct region *region = &job->region;
    float *above = job->scratch + thread * job->scratch_floats, *below = above + job->head->classes * LINE;
    struct band band = head_fill_band(job, tile_y, above);
    for (int start = 0; start < region->output_width && band.first < band.last; start += STRIP) {
        struct strip strip;
        lay_out(&strip, region, start);
        stretch_row(job, &band, band.first, &strip, above);
        for (int y = band.first; y < band.last; y++) {
            int is_last = y == region->height - 1;
            if (!is_last)
                stretch_row(job, &band, y + 1, &strip, below);
            measure_rows(job, &strip, above, is_last ? above : below,
                         find_first_output(y, region->height, region->output_height),
                         find_first_output(y + 1, region->height, region->output_height));
            float *upper = above;
            above = below, below = upper;
        }
    }
}
