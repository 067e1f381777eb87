#include "stem.h"

#include "memory.h"
#include "product.h"

/* The output rows of one task. Neighbouring tasks both compute one row of the convolution. */
#define TASK_ROWS 8
#define TAPS (STEM_SIZE * 3 * STEM_SIZE)
#define BORDER (STEM_SIZE / 2)

/* The floats of a line of normalised input: one channel of one row, with zeros left and right. */
static long line_floats(int width) { return width + 2 * BORDER + 2; }

/* The input lines of a band: two rows for each row of the convolution, and the rows that the kernel adds. */
static int band_lines(void) { return 3 * (2 * (2 * TASK_ROWS) + STEM_SIZE); }

/* ---- the inner product, as in convolution.c, but over lines ---- */

INLINE void sum_lines(int rows, const float *x, long line, const float *weights, float *to, long column)
{
    vec sums[PRODUCT_ROWS][PRODUCT_VECTORS] = {0};
    for (int l = 0; l < 3 * STEM_SIZE; l++, x += line)
        for (int k = 0; k < STEM_SIZE; k++, weights += GROUP_CHANNELS)
            add_products(rows, sums, x + k, 2, weights);
    store_sums(rows, sums, to, SIMD_WIDTH, column);
}

static void sum_some_lines(int rows, const float *x, long line, const float *weights, float *to, long column)
{
    if (rows == PRODUCT_ROWS) {
        sum_lines(PRODUCT_ROWS, x, line, weights, to, column);
        return;
    }
    /* The remainder is computed in halves and quarters, whose size is a constant. */
    for (int piece = PRODUCT_ROWS / 2; rows > 0; piece = MAX(1, piece / 2))
        for (; rows >= piece; rows -= piece, x += 2 * piece, to += piece * SIMD_WIDTH) {
            if (piece == PRODUCT_ROWS / 2)
                sum_lines(PRODUCT_ROWS / 2, x, line, weights, to, column);
            else if (piece == PRODUCT_ROWS / 4)
                sum_lines(PRODUCT_ROWS / 4, x, line, weights, to, column);
            else
                sum_lines(1, x, line, weights, to, column);
        }
}

/* ---- a band ---- */

struct stem_job {
    const struct stem *stem;
    const uint8_t *canvas;
    const struct feature_map *to;
    float *scratch;
    long scratch_floats;
};

static void normalise(const struct stem_job *job, int first_row, int rows, float *lines)
{
    int height = 4 * job->to->height, width = 4 * job->to->width;
    long length = line_floats(width);
    memset(lines, 0, rows * 3 * length * sizeof *lines);
    for (int r = MAX(0, -first_row); r < MIN(rows, height - first_row); r++) {
        const uint8_t *from = job->canvas + (long)(first_row + r) * width * 3;
        float *red = lines + r * 3 * length + BORDER, *green = red + length, *blue = green + length;
        for (int x = 0; x < width; x++) {
            red[x] = job->stem->levels[0][from[3 * x]];
            green[x] = job->stem->levels[1][from[3 * x + 1]];
            blue[x] = job->stem->levels[2][from[3 * x + 2]];
        }
    }
}

/* Computes one row of the convolution, rectified: (blocks, width, SIMD_WIDTH). */
static void convolve_row(const struct stem *stem, const float *lines, int width, float *to)
{
    long length = line_floats(2 * width), block = (long)width * SIMD_WIDTH;
    for (int g = 0; g < stem->channels / GROUP_CHANNELS; g++) {
        float *row = to + g * PRODUCT_VECTORS * block;
        for (int x = 0; x < width; x += PRODUCT_ROWS)
            sum_some_lines(MIN(PRODUCT_ROWS, width - x), lines + 2 * x, length,
                           stem->weights + (long)g * TAPS * GROUP_CHANNELS, row + x * SIMD_WIDTH, block);
        for (int c = 0; c < PRODUCT_VECTORS; c++) {
            vec bias = load(stem->bias + (g * PRODUCT_VECTORS + c) * SIMD_WIDTH);
            for (int x = 0; x < width; x++) {
                float *at = row + c * block + x * SIMD_WIDTH;
                store(at, rectify(load(at) + bias));
            }
        }
    }
}

/* The maximum over three rows, none of them negative. A row outside the convolution is NULL. */
static void max_pool_row(const struct feature_map *to, int y, float *const rows[3], int width)
{
    for (int block = 0; block < to->channels / SIMD_WIDTH; block++)
        for (int x = 0; x < to->width; x++) {
            vec best = {0};
            for (int r = 0; r < 3; r++) {
                if (!rows[r])
                    continue;
                const float *from = rows[r] + ((long)block * width + 2 * x) * SIMD_WIDTH;
                if (x > 0)
                    best = maximum(best, load(from - SIMD_WIDTH));
                best = maximum(best, maximum(load(from), load(from + SIMD_WIDTH)));
            }
            store(pixel(to, block, y, x), best);
        }
}

static void stem_task(void *context, int number, int thread)
{
    const struct stem_job *job = context;
    const struct feature_map *to = job->to;
    int width = 2 * to->width, height = 2 * to->height;
    int first = number * TASK_ROWS, last = MIN(first + TASK_ROWS, to->height);
    long length = line_floats(2 * width), row_floats = (long)job->stem->channels * width;
    float *lines = job->scratch + thread * job->scratch_floats;
    float *kept = lines + band_lines() * length;
    float *rows[3] = {NULL, NULL, NULL}; /* of the convolution: 2 y - 1, 2 y, 2 y + 1 */
    int first_row = 2 * first - 1, first_line = 2 * first_row - BORDER;
    normalise(job, first_line, 2 * (2 * last - first_row - 1) + STEM_SIZE, lines);
    for (int r = first_row; r < 2 * last; r++) {
        rows[0] = rows[1];
        rows[1] = rows[2];
        rows[2] = NULL;
        if (r >= 0 && r < height) {
            rows[2] = kept + (r - first_row) % 3 * row_floats;
            convolve_row(job->stem, lines + (2 * r - BORDER - first_line) * 3 * length, width, rows[2]);
        }
        if (r % 2 == 1 && r > first_row)
            max_pool_row(to, r / 2, rows, width);
    }
}

long stem_scratch(const struct stem *stem, int width)
{
    long floats = band_lines() * line_floats(width) + 3L * stem->channels * (width / 2);
    return (floats + SIMD_WIDTH - 1) / SIMD_WIDTH * SIMD_WIDTH;
}

void stem_apply(struct thread_pool *pool, const struct stem *stem, const uint8_t *canvas,
                const struct feature_map *to, float *scratch, long scratch_floats)
{
    struct stem_job job = {stem, canvas, to, scratch, scratch_floats};
    thread_pool_run(pool, (to->height + TASK_ROWS - 1) / TASK_ROWS, stem_task, &job);
}

/* ---- weights ---- */

int stem_pack(struct stem *stem, const float *kernel, const float *bias, int channels, const float *levels)
{
    stem->channels = channels;
    stem->weights = allocate_floats((long)TAPS * channels);
    stem->bias = allocate_floats(channels);
    if (!stem->weights || !stem->bias)
        return -1;
    memcpy(stem->bias, bias, channels * sizeof(float));
    memcpy(stem->levels, levels, sizeof stem->levels);
    float *to = stem->weights;
    for (int g = 0; g < channels / GROUP_CHANNELS; g++)
        for (int y = 0; y < STEM_SIZE; y++)
            for (int c = 0; c < 3; c++)
                for (int x = 0; x < STEM_SIZE; x++)
                    for (int channel = 0; channel < GROUP_CHANNELS; channel++) {
                        int o = g * GROUP_CHANNELS + channel;
                        *to++ = kernel[((o * 3 + c) * STEM_SIZE + y) * STEM_SIZE + x];
                    }
    return 0;
}

void stem_free(struct stem *stem)
{
    free(stem->weights);
    free(stem->bias);
}
