/* Masks whose size differs from the image's. Logits are computed in bands of rows that stay in the cache, so
   the full logits never exist. All classes are compared only between source pixels of different classes. */
#include "head_band.h"

/* The first output pixel whose source pixel is `i` or later. */
int find_first_output(int i, int source, int output)
{
    float share;
    int guess = (int)((i + .5) * output / source - .5) - 1;
    guess = i <= 0 ? 0 : MIN(MAX(guess, 0), output);
    while (guess > 0 && find_source_pixel(guess - 1, source, output, &share) >= i)
        guess--;
    while (guess < output && find_source_pixel(guess, source, output, &share) < i)
        guess++;
    return guess;
}

static void label_band(const struct head_job *job, const struct band *band)
{
    for (int row = 0; row < band->rows; row++) {
        const float *from = band->logits + row * band->line;
        uint8_t *labels = band->labels + row * band->line;
        for (long x = 0; x < band->line; x += SIMD_WIDTH) {
            vec best = load(from + x);
            int_vec label = {0};
            for (int class = 1; class < job->head->classes; class++)
                take_larger(load(from + class * band->plane + x), class, &best, &label);
            write_labels(labels + x, label, SIMD_WIDTH);
        }
    }
}

/* Lists the classes that can have the largest logit between four source pixels, whose positions are `at`.
   Returns their number, and writes the logits of all classes at these pixels to `corners`. */
INLINE int list_candidates(const struct band *band, int classes, const long at[4],
                           float corners[4][MAX_CLASSES], int *candidates)
{
    int count = 0;
    long plane = band->plane;
    for (int class = 0; class < classes; class++) {
        int beaten = 0;
        for (int corner = 0; corner < 4; corner++)
            corners[corner][class] = band->logits[class * plane + at[corner]];
        for (int corner = 0; corner < 4 && !beaten; corner++) {
            /* A class that is smaller at every corner than the winner of one corner never wins. */
            int winner = band->labels[at[corner]];
            beaten = winner != class;
            for (int other = 0; other < 4; other++)
                beaten &= corners[other][class] < band->logits[winner * plane + at[other]];
        }
        if (!beaten)
            candidates[count++] = class;
    }
    return count;
}

/* Fills the output pixels between four source pixels of more than one class. */
static void fill_between(const struct head_job *job, const struct band *band, int row, int next_row, long x,
                         long next_x, int first_y, int last_y, int first_x, int last_x)
{
    const struct region *region = &job->region;
    int candidates[MAX_CLASSES];
    float corners[4][MAX_CLASSES];
    const long at[4] = {row * band->line + x, row * band->line + next_x, next_row * band->line + x,
                        next_row * band->line + next_x};
    int count = list_candidates(band, job->head->classes, at, corners, candidates);
    for (int y = first_y; y < last_y; y++) {
        float down;
        find_source_pixel(y, region->height, region->output_height, &down);
        float left[MAX_CLASSES], slope[MAX_CLASSES];
        for (int i = 0; i < count; i++) {
            int class = candidates[i];
            left[i] = corners[0][class] + (corners[2][class] - corners[0][class]) * down;
            slope[i] = corners[1][class] + (corners[3][class] - corners[1][class]) * down - left[i];
        }
        uint8_t *to = job->mask + (long)y * region->output_width;
        for (int out = first_x; out < last_x; out += SIMD_WIDTH) {
            vec share = load(job->shares + out), best = left[0] + slope[0] * share;
            int_vec label = (int_vec){0} + candidates[0];
            for (int i = 1; i < count; i++)
                take_larger(left[i] + slope[i] * share, candidates[i], &best, &label);
            write_labels(to + out, label, MIN(SIMD_WIDTH, last_x - out));
        }
    }
}

/* Fills the output rows between one row of source pixels and the next. */
static void fill_output_rows(const struct head_job *job, const struct band *band, int row, int next_row,
                             int first_y, int last_y)
{
    const struct region *region = &job->region;
    int half = job->head->side / 2;
    const uint8_t *above = band->labels + row * band->line + half;
    const uint8_t *below = band->labels + next_row * band->line + half;
    uint8_t *first = job->mask + (long)first_y * region->output_width;
    if (first_y == last_y)
        return;
    for (int x = 0; x < region->width; x++)
        memset(first + job->starts[x], above[x], job->starts[x + 1] - job->starts[x]);
    for (int y = first_y + 1; y < last_y; y++)
        memcpy(job->mask + (long)y * region->output_width, first, region->output_width);
    for (int x = 0; x < region->width; x++) {
        int next = MIN(x + 1, region->width - 1);
        if (above[x] != above[next] || above[x] != below[x] || above[x] != below[next])
            fill_between(job, band, row, next_row, half + x, half + next, first_y, last_y, job->starts[x],
                         job->starts[x + 1]);
    }
}

/* Computes the output rows whose source pixel lies in one row of tiles. */
void head_scaled_task(void *context, int tile_y, int thread)
{
    const struct head_job *job = context;
    const struct region *region = &job->region;
    struct band band = head_fill_band(job, tile_y, job->scratch + thread * job->scratch_floats);
    label_band(job, &band);
    for (int y = band.first; y < band.last; y++)
        fill_output_rows(job, &band, y - band.top, MIN(y + 1, region->height - 1) - band.top,
                         find_first_output(y, region->height, region->output_height),
                         find_first_output(y + 1, region->height, region->output_height));
}
