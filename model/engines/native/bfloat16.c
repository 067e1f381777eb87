#include "bfloat16.h"

#include "memory.h"
#include "network.h"
#include "stem.h"

#if defined(__AVX512F__) && defined(__linux__)

/* Clang's headers name the features of each intrinsic themselves. */
#ifndef __clang__
#pragma GCC target("amx-tile,amx-bf16,avx512bf16")
#endif
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16,avx512bf16"))), apply_to = function)
#endif

/* One tile register: 16 rows of 32 bfloat16, or of 16 float32. */
#define AMX_ROWS 16
#define AMX_DEPTH 32 /* channels of a block, and what one product sums over */
#define AMX_VALUES (AMX_ROWS * AMX_DEPTH)
#define AMX_OUTPUTS 32 /* output channels of one product: two tiles */

#define STEM_CHANNELS 64
#define STEM_BORDER (STEM_SIZE / 2)
#define TASK_ROWS 8

typedef uint16_t bfloat;

/* Blocks of 32 channels, (blocks, rows, columns, 32), with a border of one pixel of zeros. A tile may read
   past a row's end, into the next one; what comes of that is not kept. */
struct bfloat16_feature_map {
    int channels, height, width;
    long row, plane; /* in values */
    bfloat *pixels;
};

struct bfloat16_convolution {
    int in_channels, out_channels, size, stride;
    bfloat *weights; /* (groups, blocks, size, size, 2 tiles, 16 pairs, 16 outputs, 2) */
    float *bias;
};

struct bfloat16_network {
    bfloat levels[3][256];
    bfloat *stem_weights; /* (7 rows, 4 tiles, 16 pairs, 16 outputs, 2) */
    float *stem_bias;
    struct bfloat16_convolution first[RESIDUAL_BLOCKS], second[RESIDUAL_BLOCKS], shortcut[RESIDUAL_BLOCKS],
        classifier;
};

/* ---- tile registers ---- */

static void configure_amx(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int number = 0; number < 8; number++) {
        config.row_bytes[number] = 64;
        config.rows[number] = AMX_ROWS;
    }
    _tile_loadconfig(&config);
}

int bfloat16_is_supported(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* Linux' arch_prctl(2), ARCH_REQ_XCOMP_PERM */
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1u << 22) || !(d & 1u << 24))
        return 0; /* AMX-BF16, AMX-TILE */
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1u << 5))
        return 0; /* AVX512-BF16 */
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

INLINE bfloat rounded(float value)
{
    return (bfloat)_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(value)), 0);
}

INLINE void store_bfloat16(bfloat *to, __m512 values)
{
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values));
}

INLINE __m512 load_bfloat16(const bfloat *from)
{
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}

/* ---- pictures ---- */

static long bfloat16_feature_map_values(int channels, int height, int width)
{
    return (long)channels * (height + 2) * (width + 2) + 2L * AMX_ROWS * AMX_DEPTH;
}

static struct bfloat16_feature_map bfloat16_feature_map_in(bfloat *memory, int channels, int height,
                                                           int width)
{
    long row = (width + 2L) * AMX_DEPTH, plane = row * (height + 2);
    return (struct bfloat16_feature_map){channels, height, width, row, plane, memory + row + AMX_DEPTH};
}

INLINE bfloat *bfloat16_pixel(const struct bfloat16_feature_map *map, int block, int y, int x)
{
    return map->pixels + block * map->plane + y * map->row + (long)x * AMX_DEPTH;
}

static void lay_out(float *memory, int height, int width,
                    struct bfloat16_feature_map maps[STAGES][FEATURE_MAPS])
{
    bfloat *next = (bfloat *)memory;
    for (int stage = 0; stage < STAGES; stage++)
        for (int number = 0; number < FEATURE_MAPS; number++) {
            int channels = channels_at(stage), h = side_at(stage, height), w = side_at(stage, width);
            maps[stage][number] = bfloat16_feature_map_in(next, channels, h, w);
            next += bfloat16_feature_map_values(channels, h, w);
        }
}

long bfloat16_floats(int height, int width)
{
    long values = 0;
    for (int stage = 0; stage < STAGES; stage++)
        values += FEATURE_MAPS * bfloat16_feature_map_values(channels_at(stage), side_at(stage, height),
                                                             side_at(stage, width));
    return (values + 1) / 2;
}

void bfloat16_clear_borders(float *memory, int height, int width)
{
    /* All of it: what tiles read past a row's end must be numbers, too. */
    memset(memory, 0, bfloat16_floats(height, width) * sizeof *memory);
}

/* ---- convolution ---- */

struct bfloat16_convolution_job {
    const struct bfloat16_convolution *convolution;
    const struct bfloat16_feature_map *from, *shortcut, *to;
    const struct feature_map *logits; /* instead of `to`: float32, neither rectified nor rounded */
    int relu, parts, groups;
};

/* 16 pixels of a row. */
struct chunk {
    int y, x;
};

INLINE struct chunk chunk_at(int number, int across)
{
    return (struct chunk){number / across, number % across * AMX_ROWS};
}

static void finish_chunk(const struct bfloat16_convolution_job *job, int group, struct chunk chunk, int width,
                         const float sums[2][AMX_ROWS][16])
{
    const float *bias = job->convolution->bias + group * AMX_OUTPUTS;
    int count = MIN(AMX_ROWS, width - chunk.x);
    for (int half = 0; half < 2; half++) {
        __m512 shift = _mm512_loadu_ps(bias + half * 16);
        for (int i = 0; i < count; i++) {
            __m512 sum = _mm512_add_ps(_mm512_loadu_ps(sums[half][i]), shift);
            if (job->logits) {
                store(pixel(job->logits, group * 2 + half, chunk.y, chunk.x + i), (vec)sum);
                continue;
            }
            if (job->shortcut)
                sum = _mm512_add_ps(
                    sum,
                    load_bfloat16(bfloat16_pixel(job->shortcut, group, chunk.y, chunk.x + i) + half * 16));
            if (job->relu)
                sum = _mm512_max_ps(sum, _mm512_setzero_ps());
            store_bfloat16(bfloat16_pixel(job->to, group, chunk.y, chunk.x + i) + half * 16, sum);
        }
    }
}

/* A task: some chunks, two at a time, for some groups of output channels. */
static void convolution_task(void *context, int number, int thread)
{
    (void)thread;
    const struct bfloat16_convolution_job *job = context;
    const struct bfloat16_convolution *convolution = job->convolution;
    const struct bfloat16_feature_map *from = job->from;
    int size = convolution->size, stride = convolution->stride, border = size / 2;
    int height = from->height / stride, width = from->width / stride;
    int across = (width + AMX_ROWS - 1) / AMX_ROWS, chunks = across * height;
    int blocks = from->channels / AMX_DEPTH, groups = convolution->out_channels / AMX_OUTPUTS;
    int part = number % job->parts, some = number / job->parts;
    int first = start_of_part(part, job->parts, chunks), last = start_of_part(part + 1, job->parts, chunks);
    long bytes = (long)stride * AMX_DEPTH * sizeof(bfloat);
    float sums[2][2][AMX_ROWS][16] __attribute__((aligned(ALIGNMENT)));
    configure_amx();
    for (int g = start_of_part(some, job->groups, groups); g < start_of_part(some + 1, job->groups, groups);
         g++)
        for (int c = first; c < last; c += 2) {
            struct chunk one = chunk_at(c, across), two = chunk_at(MIN(c + 1, last - 1), across);
            const bfloat *a = bfloat16_pixel(from, 0, one.y * stride - border, one.x * stride - border);
            const bfloat *b = bfloat16_pixel(from, 0, two.y * stride - border, two.x * stride - border);
            const bfloat *weights = convolution->weights + (long)g * blocks * size * size * 2 * AMX_VALUES;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int block = 0; block < blocks; block++)
                for (int dy = 0; dy < size; dy++)
                    for (int dx = 0; dx < size; dx++, weights += 2 * AMX_VALUES) {
                        long at = block * from->plane + dy * from->row + dx * AMX_DEPTH;
                        _tile_loadd(4, a + at, bytes);
                        _tile_loadd(5, b + at, bytes);
                        _tile_loadd(6, weights, 64);
                        _tile_loadd(7, weights + AMX_VALUES, 64);
                        _tile_dpbf16ps(0, 4, 6);
                        _tile_dpbf16ps(1, 4, 7);
                        _tile_dpbf16ps(2, 5, 6);
                        _tile_dpbf16ps(3, 5, 7);
                    }
            _tile_stored(0, sums[0][0], 64);
            _tile_stored(1, sums[0][1], 64);
            _tile_stored(2, sums[1][0], 64);
            _tile_stored(3, sums[1][1], 64);
            finish_chunk(job, g, one, width, sums[0]);
            if (c + 1 < last)
                finish_chunk(job, g, two, width, sums[1]);
        }
    _tile_release();
}

static void bfloat16_convolve(struct thread_pool *pool, const struct bfloat16_convolution *convolution,
                              const struct bfloat16_feature_map *from,
                              const struct bfloat16_feature_map *shortcut, int relu,
                              const struct bfloat16_feature_map *to, const struct feature_map *logits)
{
    int threads = thread_pool_size(pool), groups = convolution->out_channels / AMX_OUTPUTS;
    struct bfloat16_convolution_job job = {convolution, from, shortcut, to, logits, relu, 1, 1};
    if (threads > 1) {
        job.groups = MIN(groups, 2 * threads);
        job.parts = MAX(1, MIN(from->height / convolution->stride, 2 * threads / job.groups));
    }
    thread_pool_run(pool, job.parts * job.groups, convolution_task, &job);
}

/* ---- the first layers: see stem.h ---- */

struct bfloat16_stem_job {
    const struct bfloat16_network *network;
    const uint8_t *canvas;
    const struct bfloat16_feature_map *to;
    float *scratch;
    long scratch_floats;
};

/* A row of normalised RGB, zeros left and right, and room for a tile to read past its end. */
static long line_values(int width) { return 3L * (width + 2 * STEM_BORDER) + 2 * AMX_DEPTH + 12 * AMX_ROWS; }

static int band_lines(void) { return 4 * TASK_ROWS + STEM_SIZE; }

long bfloat16_scratch(int width)
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
            to[x] = job->network->levels[0][from[x]];
            to[x + 1] = job->network->levels[1][from[x + 1]];
            to[x + 2] = job->network->levels[2][from[x + 2]];
        }
    }
}

/* One row of the convolution, rectified: (width, 64). */
static void convolve_row(const struct bfloat16_network *network, const bfloat *lines, int width, float *to)
{
    long length = line_values(2 * width);
    float sums[4][AMX_ROWS][16] __attribute__((aligned(ALIGNMENT)));
    for (int x = 0; x < width; x += AMX_ROWS) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int dy = 0; dy < STEM_SIZE; dy++) {
            const bfloat *weights = network->stem_weights + dy * 4L * AMX_VALUES;
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
            __m512 bias = _mm512_loadu_ps(network->stem_bias + part * 16);
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
            convolve_row(job->network, lines + (2 * r - STEM_BORDER - first_line) * length, width, rows[2]);
        }
        if (r % 2 == 1 && r > first_row)
            max_pool_row(job->to, r / 2, rows);
    }
    _tile_release();
}

/* ---- the network ---- */

void bfloat16_run(const struct bfloat16_network *network, struct thread_pool *pool, const uint8_t *canvas,
                  int height, int width, float *memory, const struct feature_map *coarse, float *scratch,
                  long scratch_floats)
{
    struct bfloat16_feature_map maps[STAGES][FEATURE_MAPS];
    lay_out(memory, height, width, maps);
    const struct bfloat16_feature_map *x = &maps[0][0];
    struct bfloat16_stem_job stem = {network, canvas, x, scratch, scratch_floats};
    thread_pool_run(pool, (x->height + TASK_ROWS - 1) / TASK_ROWS, stem_task, &stem);
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        struct bfloat16_feature_map *identity = &maps[stage_of(b)][0], *middle = identity + 1;
        bfloat16_convolve(pool, &network->first[b], x, NULL, 1, middle, NULL);
        if (network->shortcut[b].weights)
            bfloat16_convolve(pool, &network->shortcut[b], x, NULL, 0, identity, NULL);
        bfloat16_convolve(pool, &network->second[b], middle, identity, 1, identity, NULL);
        x = identity;
    }
    bfloat16_convolve(pool, &network->classifier, x, NULL, 0, NULL, coarse);
}

/* ---- weights ---- */

/* As the tile product wants its right side: pairs of inputs beside each other for each output. */
static void pack_register(bfloat *to, const float *kernel, int first_out, int out, int first_in, int in,
                          long out_apart, long in_apart)
{
    for (int pair = 0; pair < AMX_DEPTH / 2; pair++)
        for (int o = 0; o < 16; o++)
            for (int k = 0; k < 2; k++) {
                int from = first_in + 2 * pair + k, output = first_out + o;
                float value = from < in && output < out ? kernel[output * out_apart + from * in_apart] : 0;
                *to++ = rounded(value);
            }
}

static int pack_convolution(struct bfloat16_convolution *convolution, const float *kernel, const float *bias,
                            int out, int in, int size, int stride)
{
    int out_padded = round_up(out, AMX_OUTPUTS), area = size * size;
    *convolution = (struct bfloat16_convolution){in, out_padded, size, stride, NULL, NULL};
    convolution->weights = (bfloat *)allocate_floats((long)out_padded * in * area / 2);
    convolution->bias = allocate_floats(out_padded);
    if (!convolution->weights || !convolution->bias)
        return -1;
    memset(convolution->bias, 0, out_padded * sizeof(float));
    memcpy(convolution->bias, bias, out * sizeof(float));
    bfloat *to = convolution->weights;
    for (int g = 0; g < out_padded / AMX_OUTPUTS; g++)
        for (int block = 0; block < in / AMX_DEPTH; block++)
            for (int p = 0; p < area; p++)
                for (int half = 0; half < 2; half++, to += AMX_VALUES)
                    pack_register(to, kernel + p, g * AMX_OUTPUTS + half * 16, out, block * AMX_DEPTH, in,
                                  (long)in * area, area);
    return 0;
}

/* For each row of the kernel, its 21 values (column, colour) in the order of a line. */
static int pack_stem(struct bfloat16_network *network, const float *kernel, const float *bias,
                     const float *levels)
{
    network->stem_weights = (bfloat *)allocate_floats(STEM_SIZE * 4L * AMX_VALUES / 2);
    network->stem_bias = allocate_floats(STEM_CHANNELS);
    if (!network->stem_weights || !network->stem_bias)
        return -1;
    memcpy(network->stem_bias, bias, STEM_CHANNELS * sizeof(float));
    for (int c = 0; c < 3; c++)
        for (int level = 0; level < 256; level++)
            network->levels[c][level] = rounded(levels[c * 256 + level]);
    const int taps = 3 * STEM_SIZE;
    for (int dy = 0; dy < STEM_SIZE; dy++) {
        float row[STEM_CHANNELS * 3 * STEM_SIZE];
        for (int o = 0; o < STEM_CHANNELS; o++)
            for (int dx = 0; dx < STEM_SIZE; dx++)
                for (int c = 0; c < 3; c++)
                    row[o * taps + dx * 3 + c] = kernel[((o * 3 + c) * STEM_SIZE + dy) * STEM_SIZE + dx];
        for (int part = 0; part < 4; part++)
            pack_register(network->stem_weights + (dy * 4L + part) * AMX_VALUES, row, part * 16,
                          STEM_CHANNELS, 0, taps, taps, 1);
    }
    return 0;
}

struct bfloat16_network *bfloat16_pack(const float *const *tensors, const float *levels, int classes)
{
    struct bfloat16_network *network = calloc(1, sizeof *network);
    if (!network)
        return NULL;
    int failed = pack_stem(network, tensors[0], tensors[1], levels);
    tensors += 2;
    for (int b = 0; b < RESIDUAL_BLOCKS && !failed; b++) {
        int narrows = has_shortcut(b), out = channels_at(stage_of(b)), in = narrows ? out / 2 : out;
        failed |= pack_convolution(&network->first[b], tensors[0], tensors[1], out, in, 3, narrows ? 2 : 1);
        failed |= pack_convolution(&network->second[b], tensors[2], tensors[3], out, out, 3, 1);
        tensors += 4;
        if (narrows) {
            failed |= pack_convolution(&network->shortcut[b], tensors[0], tensors[1], out, in, 1, 2);
            tensors += 2;
        }
    }
    failed = failed || pack_convolution(&network->classifier, tensors[0], tensors[1], classes, 512, 1, 1);
    if (!failed)
        return network;
    bfloat16_free(network);
    return NULL;
}

static void free_convolution(struct bfloat16_convolution *convolution)
{
    free(convolution->weights);
    free(convolution->bias);
}

void bfloat16_free(struct bfloat16_network *network)
{
    free(network->stem_weights);
    free(network->stem_bias);
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        free_convolution(&network->first[b]);
        free_convolution(&network->second[b]);
        free_convolution(&network->shortcut[b]);
    }
    free_convolution(&network->classifier);
    free(network);
}

#ifdef __clang__
#pragma clang attribute pop
#endif

#else /* no AMX in this kind of processor */

int bfloat16_is_supported(void) { return 0; }

struct bfloat16_network *bfloat16_pack(const float *const *tensors, const float *levels, int classes)
{
    (void)tensors, (void)levels, (void)classes;
    return NULL;
}

void bfloat16_free(struct bfloat16_network *network) { (void)network; }
long bfloat16_floats(int height, int width) { return 0L * height * width; }
long bfloat16_scratch(int width) { return 0L * width; }

void bfloat16_clear_borders(float *memory, int height, int width) { (void)memory, (void)height, (void)width; }

void bfloat16_run(const struct bfloat16_network *network, struct thread_pool *pool, const uint8_t *canvas,
                  int height, int width, float *memory, const struct feature_map *coarse, float *scratch,
                  long scratch_floats)
{
    (void)network, (void)pool, (void)canvas, (void)height, (void)width, (void)memory, (void)coarse;
    (void)scratch, (void)scratch_floats;
}

#endif
