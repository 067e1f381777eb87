#if defined(__AVX512F__) && defined(__linux__)

#include "bfloat16_stem.h"

#include "memory.h"

/* The output rows of one task. Neighbouring tasks both compute one row of the convolution. */
#define TASK_ROWS 8
#define STEM_BORDER (STEM_SIZE / 2)

struct bfloat16_stem_job {
    const struct bfloat16_stem *stem;
    const uint8_t *canvas;
    const struct bfloat16_feature_map *to;
    float *scratch;
    long scratch_floats;
};

/* A row of normalised RGB, with zeros left and right and room for a register to read past its end. */
static long line_values(int width) { return 3L * (width + 2 * STEM_BORDER) + 2 * AMX_DEPTH + 12 * AMX_ROWS; }

static int band_lines(void) { return 4 * TASK_ROWS + STEM_SIZE; }

long bfloat16_stem_scratch(int width)
{
    long floats = (band_lines() * line_values(width) + 1) / 2 + 3L * STEM_CHANNELS * (width / 2 + AMX_ROWS);
    return (floats + SIMD_WIDTH - 1) / SIMD_WIDTH * SIMD_WIDTH + SIMD_WIDTH;
}

static void normalise(const struct bfloat16_stem_job *job, int first_row, int rows, bfloat *lines)
{
    int height = 4 * job->to->height, width = 4 * job->to->width;
    long length = line_values(width);
    memset(lines, 0, rows * length * sizeof *lines);
    for (int r = MAX(0, -first_row); r < MIN(rows, height - first_row); r++) {
        const uint8_t *from = job->canvas + (long)(first_row + r) * width * 3;
        bfloat *to = lines + r * length + 3 * STEM_BORDER;
        for (int x = 0; x < 3 * width; x += 3) {
            to[x] = job->stem->levels[0][from[x]];
            to[x + 1] = job->stem->levels[1][from[x + 1]];
            to[x + 2] = job->stem->levels[2][from[x + 2]];
        }
    }
}

/* Computes one row of the convolution, rectified: (width, 64). */
static void convolve_row(const struct bfloat16_stem *stem, const bfloat *lines, int width, float *to)
{
    long length = line_values(2 * width);
    float sums[4][AMX_ROWS][16] __attribute__((aligned(ALIGNMENT)));
    for (int x = 0; x < width; x += AMX_ROWS) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int dy = 0; dy < STEM_SIZE; dy++) {
            const bfloat *weights = stem->weights + dy * 4L * AMX_VALUES;
            _tile_loadd(4, lines + dy * length + 6 * x, 6 * sizeof(bfloat));
            _tile_loadd(5, weights, 64);
            _tile_loadd(6, weights + AMX_VALUES, 64);
            _tile_dpbf16ps(0, 4, 5);
            _tile_dpbf16ps(1, 4, 6);
            _tile_loadd(5, weights + 2 * AMX_VALUES, 64);
            _tile_loadd(6, weights + 3 * AMX_VALUES, 64);
            _tile_dpbf16ps(2, 4, 5);
            _tile_dpbf16ps(3, 4, 6);
        }
        _tile_stored(0, sums[0], 64);
        _tile_stored(1, sums[1], 64);
        _tile_stored(2, sums[2], 64);
        _tile_stored(3, sums[3], 64);
        for (int part = 0; part < 4; part++) {
            __m512 bias = _mm512_loadu_ps(stem->bias + part * 16);
            for (int i = 0; i < AMX_ROWS; i++) {
                __m512 sum = _mm512_add_ps(_mm512_load_ps(sums[part][i]), bias);
                _mm512_storeu_ps(to + (x + i) * (long)STEM_CHANNELS + part * 16,
                                 _mm512_max_ps(sum, _mm512_setzero_ps()));
            }
        }
    }
}

static void max_pool_row(const struct bfloat16_feature_map *to, int y, float *const rows[3])
{
    for (int x = 0; x < to->width; x++)
        for (int part = 0; part < 4; part++) {
            __m512 best = _mm512_setzero_ps();
            for (int r = 0; r < 3; r++) {
                if (!rows[r])
                    continue;
                const float *from = rows[r] + 2L * x * STEM_CHANNELS + part * 16;
                if (x > 0)
                    best = _mm512_max_ps(best, _mm512_loadu_ps(from - STEM_CHANNELS));
                best = _mm512_max_ps(best, _mm512_loadu_ps(from));
                best = _mm512_max_ps(best, _mm512_loadu_ps(from + STEM_CHANNELS));
            }
            store_bfloat16(bfloat16_pixel(to, part / 2, y, x) + part % 2 * 16, best);
        }
}

static void stem_task(void *context, int number, int thread)
{
    const struct bfloat16_stem_job *job = context;
    int width = 2 * job->to->width, height = 2 * job->to->height;
    int first = number * TASK_ROWS, last = MIN(first + TASK_ROWS, job->to->height);
    long length = line_values(2 * width), row_floats = (long)STEM_CHANNELS * (width + AMX_ROWS);
    bfloat *lines = (bfloat *)(job->scratch + thread * job->scratch_floats);
    float *kept = job->scratch + thread * job->scratch_floats + (band_lines() * length + 1) / 2;
    float *rows[3] = {NULL, NULL, NULL}; /* of the convolution: 2 y - 1, 2 y, 2 y + 1 */
    int first_row = 2 * first - 1, first_line = 2 * first_row - STEM_BORDER;
    normalise(job, first_line, 2 * (2 * last - first_row - 1) + STEM_SIZE, lines);
    configure_amx();
    for (int r = first_row; r < 2 * last; r++) {
        rows[0] = rows[1];
        rows[1] = rows[2];
        rows[2] = NULL;
        if (r >= 0 && r < height) {
            rows[2] = kept + (r - first_row) % 3 * row_floats;
            convolve_row(job->stem, lines + (2 * r - STEM_BORDER - first_line) * length, width, rows[2]);
        }
        if (r % 2 == 1 && r > first_row)
            max_pool_row(job->to, r / 2, rows);
    }
    _tile_release();
}

void bfloat16_stem_apply(struct thread_pool *pool, const struct bfloat16_stem *stem, const uint8_t *canvas,
                         const struct bfloat16_feature_map *to, float *scratch, long scratch_floats)
{
    struct bfloat16_stem_job job = {stem, canvas, to, scratch, scratch_floats};
    thread_pool_run(pool, (to->height + TASK_ROWS - 1) / TASK_ROWS, stem_task, &job);
}

/* Packs the 21 values (column, colour) of each row of the kernel in the order of a line. */
int bfloat16_stem_pack(struct bfloat16_stem *stem, const float *kernel, const float *bias,
                       const float *levels)
{
    stem->weights = (bfloat *)allocate_floats(STEM_SIZE * 4L * AMX_VALUES / 2);
    stem->bias = allocate_floats(STEM_CHANNELS);
    if (!stem->weights || !stem->bias)
        return -1;
    memcpy(stem->bias, bias, STEM_CHANNELS * sizeof(float));
    for (int c = 0; c < 3; c++)
        for (int level = 0; level < 256; level++)
            stem->levels[c][level] = round_to_bfloat16(levels[c * 256 + level]);
    const int taps = 3 * STEM_SIZE;
    for (int dy = 0; dy < STEM_SIZE; dy++) {
        float row[STEM_CHANNELS * 3 * STEM_SIZE];
        for (int o = 0; o < STEM_CHANNELS; o++)
            for (int dx = 0; dx < STEM_SIZE; dx++)
                for (int c = 0; c < 3; c++)
                    row[o * taps + dx * 3 + c] = kernel[((o * 3 + c) * STEM_SIZE + dy) * STEM_SIZE + dx];
        for (int part = 0; part < 4; part++)
            pack_register(stem->weights + (dy * 4L + part) * AMX_VALUES, row, part * 16, STEM_CHANNELS, 0,
                          taps, taps, 1);
    }
    return 0;
}

void bfloat16_stem_free(struct bfloat16_stem *stem)
{
    free(stem->weights);
    free(stem->bias);
}

#include "amx_end.h"

#endif
