#include "convolution.h"

#include "memory.h"
#include "product.h"

/* Weights are asked for this many floats before they are needed: the processor's own prefetching stops at
   the end of each page. */
#define PREFETCH_FLOATS 1024
#define CACHE_LINE_FLOATS 16

/* Of the transformed inputs and outputs of one task: about what a core's second cache holds. */
#define SCRATCH_BYTES (1 << 20)

/* ---- the inner product ---- */

INLINE void sum_products(int rows, int step, const float *x, long block, long row, int blocks, int size,
                         const float *weights, float *to, long column)
{
    vec sums[PRODUCT_ROWS][PRODUCT_VECTORS] = {0};
    for (int b = 0; b < blocks; b++)
        for (int dy = 0; dy < size; dy++)
            for (int dx = 0; dx < size; dx++) {
                const float *from = x + b * block + dy * row + dx * SIMD_WIDTH;
                for (int k = 0; k < SIMD_WIDTH; k++, weights += GROUP_CHANNELS) {
                    for (int c = 0; c < GROUP_CHANNELS; c += CACHE_LINE_FLOATS)
                        __builtin_prefetch(weights + PREFETCH_FLOATS + c);
                    add_products(rows, sums, from + k, step * SIMD_WIDTH, weights);
                }
            }
    store_sums(rows, sums, to, SIMD_WIDTH, column);
}

/* For `rows` pixels, `step` apart, the sums over blocks of channels and size x size neighbours, for
   PRODUCT_VECTORS vectors of outputs: [step - 1][rows - 1]. */
typedef void (*product)(const float *x, long block, long row, int blocks, int size, const float *weights,
                        float *to, long column);

#define PRODUCT(step, rows)                                                                                  \
    static void product_##step##_##rows(const float *x, long block, long row, int blocks, int size,          \
                                        const float *weights, float *to, long column)                        \
    {                                                                                                        \
        sum_products(rows, step, x, block, row, blocks, size, weights, to, column);                          \
    }
#define PRODUCTS(step)                                                                                       \
    PRODUCT(step, 1) PRODUCT(step, 2) PRODUCT(step, 3) PRODUCT(step, 4) PRODUCT(step, 5) PRODUCT(step, 6)
#define NAMES(step)                                                                                          \
    product_##step##_1, product_##step##_2, product_##step##_3, product_##step##_4, product_##step##_5,      \
        product_##step##_6
#if PRODUCT_ROWS == 12
#define MORE_PRODUCTS(step)                                                                                  \
    PRODUCT(step, 7) PRODUCT(step, 8) PRODUCT(step, 9) PRODUCT(step, 10) PRODUCT(step, 11) PRODUCT(step, 12)
#define MORE_NAMES(step)                                                                                     \
    , product_##step##_7, product_##step##_8, product_##step##_9, product_##step##_10, product_##step##_11,  \
        product_##step##_12
#else
#define MORE_PRODUCTS(step)
#define MORE_NAMES(step)
#endif

/* clang-format off */
PRODUCTS(1) MORE_PRODUCTS(1) PRODUCTS(2) MORE_PRODUCTS(2)
static const product products[2][PRODUCT_ROWS] = {{NAMES(1) MORE_NAMES(1)}, {NAMES(2) MORE_NAMES(2)}};
/* clang-format on */

/* ---- what all convolutions end with ---- */

struct convolution_job {
    const struct convolution *convolution;
    const struct feature_map *from, *shortcut, *to;
    int relu;
    float *scratch;
    long scratch_floats;
    int parts, groups; /* the work's division: rows or patches, and output channels */
};

INLINE void finish(const struct convolution_job *job, int block, int y, int x, vec sum)
{
    sum += load(job->convolution->bias + block * SIMD_WIDTH);
    if (job->shortcut)
        sum += load(pixel(job->shortcut, block, y, x));
    store(pixel(job->to, block, y, x), job->relu ? rectified(sum) : sum);
}

/* ---- direct convolution ---- */

/* A task: some rows of the output, for some groups of output channels. */
static void direct_task(void *context, int number, int thread)
{
    (void)thread;
    const struct convolution_job *job = context;
    const struct convolution *convolution = job->convolution;
    const struct feature_map *from = job->from, *to = job->to;
    int size = convolution->size, stride = convolution->stride, border = size / 2;
    int groups = convolution->out_channels / GROUP_CHANNELS, blocks = from->channels / SIMD_WIDTH;
    int part = number % job->parts, group = number / job->parts;
    int first_y = start_of_part(part, job->parts, to->height),
        last_y = start_of_part(part + 1, job->parts, to->height);
    int first_group = start_of_part(group, job->groups, groups),
        last_group = start_of_part(group + 1, job->groups, groups);
    long group_weights = (long)convolution->in_channels * size * size * GROUP_CHANNELS;
    int pieces = (to->width + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
    float sums[PRODUCT_VECTORS * PRODUCT_ROWS * SIMD_WIDTH] __attribute__((aligned(ALIGNMENT)));
    for (int g = first_group; g < last_group; g++)
        for (int y = first_y; y < last_y; y++)
            for (int piece = 0; piece < pieces; piece++) {
                int x = start_of_part(piece, pieces, to->width),
                    rows = start_of_part(piece + 1, pieces, to->width) - x;
                products[stride - 1][rows - 1](
                    pixel(from, 0, y * stride - border, x * stride - border), from->plane, from->row, blocks,
                    size, convolution->weights + g * group_weights, sums, PRODUCT_ROWS * SIMD_WIDTH);
                for (int c = 0; c < PRODUCT_VECTORS; c++)
                    for (int r = 0; r < rows; r++)
                        finish(job, g * PRODUCT_VECTORS + c, y, x + r,
                               load(sums + (c * PRODUCT_ROWS + r) * SIMD_WIDTH));
            }
}

static void convolve_directly(struct thread_pool *pool, struct convolution_job *job)
{
    int threads = thread_pool_size(pool), groups = job->convolution->out_channels / GROUP_CHANNELS;
    job->groups = threads == 1 ? 1 : groups;
    job->parts = threads == 1 ? 1 : MIN(job->to->height, MAX(1, 4 * threads / groups));
    thread_pool_run(pool, job->parts * job->groups, direct_task, job);
}

/* ---- Winograd's convolution: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks",
   2015, F(4 x 4, 3 x 3): a patch of 4 x 4 outputs comes from 36 products where a direct one takes 144. ----
 */

#define PATCH 4
#define INPUT_PATCH (PATCH + 2)
#define POSITIONS (INPUT_PATCH * INPUT_PATCH)

/* The matrix G of the kernel's transform. */
static const double KERNEL_TRANSFORM[INPUT_PATCH][3] = {{1. / 4, 0, 0},
                                                        {-1. / 6, -1. / 6, -1. / 6},
                                                        {-1. / 6, 1. / 6, -1. / 6},
                                                        {1. / 24, 1. / 12, 1. / 6},
                                                        {1. / 24, -1. / 12, 1. / 6},
                                                        {0, 0, 1}};

/* The matrix B^T times a vector of inputs that lie `apart` vectors apart, as the results do. */
INLINE void transform_inputs(const vec *d, int apart, vec *to)
{
    const vec d0 = d[0], d1 = d[apart], d2 = d[2 * apart], d3 = d[3 * apart], d4 = d[4 * apart];
    const vec a = d4 - 4 * d2, b = d3 - 4 * d1, c = d4 - d2, e = 2 * (d3 - d1);
    to[0] = 4 * d0 - 5 * d2 + d4;
    to[apart] = a + b;
    to[2 * apart] = a - b;
    to[3 * apart] = c + e;
    to[4 * apart] = c - e;
    to[5 * apart] = 4 * d1 - 5 * d3 + d[5 * apart];
}

/* The matrix A^T times a vector of sums: PATCH outputs. */
INLINE void transform_outputs(const vec *m, int apart, vec *to, int to_apart)
{
    const vec plus = m[apart] + m[2 * apart], minus = m[apart] - m[2 * apart];
    const vec plus_2 = m[3 * apart] + m[4 * apart], minus_2 = m[3 * apart] - m[4 * apart];
    to[0] = m[0] + plus + plus_2;
    to[to_apart] = minus + 2 * minus_2;
    to[2 * to_apart] = plus + 4 * plus_2;
    to[3 * to_apart] = minus + 8 * minus_2 + m[5 * apart];
}

/* One patch of one block of channels to its positions, `position` floats apart. */
INLINE void transform_input_patch(const float *from, long row, float *to, long position)
{
    vec inputs[POSITIONS], halfway[POSITIONS];
#pragma GCC unroll 6
    for (int y = 0; y < INPUT_PATCH; y++)
#pragma GCC unroll 6
        for (int x = 0; x < INPUT_PATCH; x++)
            inputs[y * INPUT_PATCH + x] = load(from + y * row + x * SIMD_WIDTH);
#pragma GCC unroll 6
    for (int x = 0; x < INPUT_PATCH; x++)
        transform_inputs(inputs + x, INPUT_PATCH, halfway + x);
#pragma GCC unroll 6
    for (int y = 0; y < INPUT_PATCH; y++)
        transform_inputs(halfway + y * INPUT_PATCH, 1, inputs + y * INPUT_PATCH);
#pragma GCC unroll 36
    for (int p = 0; p < POSITIONS; p++)
        store(to + p * position, inputs[p]);
}

INLINE void transform_output_patch(const float *from, long position, vec *to)
{
    vec sums[POSITIONS], halfway[PATCH * INPUT_PATCH];
#pragma GCC unroll 36
    for (int p = 0; p < POSITIONS; p++)
        sums[p] = load(from + p * position);
#pragma GCC unroll 6
    for (int x = 0; x < INPUT_PATCH; x++)
        transform_outputs(sums + x, INPUT_PATCH, halfway + x, INPUT_PATCH);
#pragma GCC unroll 4
    for (int y = 0; y < PATCH; y++)
        transform_outputs(halfway + y * INPUT_PATCH, 1, to + y * PATCH, 1);
}

/* A picture's patches, from left to right and down. */
static int patches_across(const struct feature_map *map) { return (map->width + PATCH - 1) / PATCH; }

/* Of one task: some patches, and some groups of output channels. */
struct extent {
    int first_patch, patches, first_group, groups;
};

static void winograd_inputs(const struct convolution_job *job, struct extent extent, float *inputs)
{
    const struct feature_map *from = job->from;
    int blocks = from->channels / SIMD_WIDTH, across = patches_across(job->to);
    long position = (long)round_up(extent.patches, PRODUCT_ROWS) * blocks * SIMD_WIDTH;
    for (int t = 0; t < extent.patches; t++) {
        int y = (extent.first_patch + t) / across * PATCH, x = (extent.first_patch + t) % across * PATCH;
        for (int b = 0; b < blocks; b++)
            transform_input_patch(
                pixel(from, b, y - 1, x - 1), from->row,
                inputs +
                    ((long)(t / PRODUCT_ROWS * blocks + b) * PRODUCT_ROWS + t % PRODUCT_ROWS) * SIMD_WIDTH,
                position);
    }
}

static void winograd_products(const struct convolution_job *job, struct extent extent, const float *inputs,
                              float *sums)
{
    const struct convolution *convolution = job->convolution;
    int blocks = job->from->channels / SIMD_WIDTH, groups = convolution->out_channels / GROUP_CHANNELS;
    long position = (long)round_up(extent.patches, PRODUCT_ROWS) * blocks * SIMD_WIDTH;
    long weights = (long)convolution->in_channels * GROUP_CHANNELS;
    for (int p = 0; p < POSITIONS; p++)
        for (int g = 0; g < extent.groups; g++)
            for (int t = 0; t < extent.patches; t += PRODUCT_ROWS) {
                int rows = MIN(PRODUCT_ROWS, extent.patches - t);
                products[0][rows - 1](
                    inputs + p * position + (long)t * blocks * SIMD_WIDTH, PRODUCT_ROWS * SIMD_WIDTH, 0,
                    blocks, 1, convolution->weights + ((long)p * groups + extent.first_group + g) * weights,
                    sums +
                        ((long)(p * extent.groups + g) * PRODUCT_VECTORS * extent.patches + t) * SIMD_WIDTH,
                    (long)extent.patches * SIMD_WIDTH);
            }
}

static void winograd_outputs(const struct convolution_job *job, struct extent extent, const float *sums)
{
    const struct feature_map *to = job->to;
    int across = patches_across(to), vectors = extent.groups * PRODUCT_VECTORS;
    long position = (long)vectors * extent.patches * SIMD_WIDTH;
    for (int v = 0; v < vectors; v++)
        for (int t = 0; t < extent.patches; t++) {
            vec outputs[PATCH * PATCH];
            transform_output_patch(sums + ((long)v * extent.patches + t) * SIMD_WIDTH, position, outputs);
            int y = (extent.first_patch + t) / across * PATCH, x = (extent.first_patch + t) % across * PATCH;
            int height = MIN(PATCH, to->height - y), width = MIN(PATCH, to->width - x);
            for (int dy = 0; dy < height; dy++)
                for (int dx = 0; dx < width; dx++)
                    finish(job, extent.first_group * PRODUCT_VECTORS + v, y + dy, x + dx,
                           outputs[dy * PATCH + dx]);
        }
}

static int count_patches(int height, int width)
{
    return ((height + PATCH - 1) / PATCH) * ((width + PATCH - 1) / PATCH);
}

static void winograd_task(void *context, int number, int thread)
{
    const struct convolution_job *job = context;
    const struct convolution *convolution = job->convolution;
    int patches = count_patches(job->to->height, job->to->width);
    int groups = convolution->out_channels / GROUP_CHANNELS;
    int part = number % job->parts, group = number / job->parts;
    /* Whole products of PRODUCT_ROWS patches, but for the last part. */
    int steps = (patches + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
    struct extent extent;
    extent.first_patch = start_of_part(part, job->parts, steps) * PRODUCT_ROWS;
    extent.patches =
        MIN(patches, start_of_part(part + 1, job->parts, steps) * PRODUCT_ROWS) - extent.first_patch;
    extent.first_group = start_of_part(group, job->groups, groups);
    extent.groups = start_of_part(group + 1, job->groups, groups) - extent.first_group;
    float *inputs = job->scratch + thread * job->scratch_floats;
    float *sums =
        inputs + (long)POSITIONS * round_up(extent.patches, PRODUCT_ROWS) * convolution->in_channels;
    winograd_inputs(job, extent, inputs);
    winograd_products(job, extent, inputs, sums);
    winograd_outputs(job, extent, sums);
}

/* How a Winograd convolution is shared out: parts of patches whose scratch stays in the cache, and as
   many groups of output channels as give every thread something to do. */
static void divide(const struct convolution *convolution, int height, int width, int threads, int *parts,
                   int *groups)
{
    int steps = (count_patches(height, width) + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
    long step_bytes =
        (long)POSITIONS * PRODUCT_ROWS * (convolution->in_channels + convolution->out_channels) * 4;
    /* Each part reads all weights: few, where the weights outweigh the picture. */
    int steps_at_once = (int)MAX(4, SCRATCH_BYTES / step_bytes);
    int all_groups = convolution->out_channels / GROUP_CHANNELS;
    *parts = (steps + steps_at_once - 1) / steps_at_once;
    *groups = threads == 1 ? 1 : MIN(all_groups, (threads + *parts - 1) / *parts);
}

long convolution_scratch(const struct convolution *convolution, int height, int width, int threads)
{
    if (!convolution->winograd)
        return 0;
    int parts, groups;
    divide(convolution, height, width, threads, &parts, &groups);
    int steps = (count_patches(height, width) + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
    int all_groups = convolution->out_channels / GROUP_CHANNELS;
    long patches = (long)(steps + parts - 1) / parts * PRODUCT_ROWS;
    long channels = convolution->in_channels + (all_groups + groups - 1) / groups * GROUP_CHANNELS;
    return POSITIONS * patches * channels;
}

void convolve(struct thread_pool *pool, const struct convolution *convolution, const struct feature_map *from,
              const struct feature_map *shortcut, int relu, const struct feature_map *to, float *scratch,
              long scratch_floats)
{
    struct convolution_job job = {convolution, from, shortcut, to, relu, scratch, scratch_floats, 1, 1};
    if (!convolution->winograd) {
        convolve_directly(pool, &job);
        return;
    }
    divide(convolution, to->height, to->width, thread_pool_size(pool), &job.parts, &job.groups);
    thread_pool_run(pool, job.parts * job.groups, winograd_task, &job);
}

/* ---- weights ---- */

static void pack_directly(float *to, const float *kernel, int out, int in, int in_padded, int groups,
                          int size)
{
    int area = size * size;
    for (int g = 0; g < groups; g++)
        for (int b = 0; b < in_padded / SIMD_WIDTH; b++)
            for (int p = 0; p < area; p++)
                for (int k = 0; k < SIMD_WIDTH; k++)
                    for (int channel = 0; channel < GROUP_CHANNELS; channel++, to++) {
                        int o = g * GROUP_CHANNELS + channel, i = b * SIMD_WIDTH + k;
                        *to = o < out && i < in ? kernel[((long)o * in + i) * area + p] : 0;
                    }
}

/* G g G^T of each kernel: (positions, groups, in_padded, GROUP_CHANNELS). */
static void pack_winograd(float *to, const float *kernel, int out, int in, int in_padded, int groups)
{
    const double (*matrix)[3] = KERNEL_TRANSFORM;
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < in; i++) {
            double taps[9][GROUP_CHANNELS] = {{0}}, halfway[INPUT_PATCH][3][GROUP_CHANNELS];
            for (int channel = 0; channel < MIN(GROUP_CHANNELS, out - g * GROUP_CHANNELS); channel++)
                for (int tap = 0; tap < 9; tap++)
                    taps[tap][channel] = kernel[((long)(g * GROUP_CHANNELS + channel) * in + i) * 9 + tap];
            for (int y = 0; y < INPUT_PATCH; y++)
                for (int x = 0; x < 3; x++)
                    for (int channel = 0; channel < GROUP_CHANNELS; channel++)
                        halfway[y][x][channel] = matrix[y][0] * taps[x][channel] +
                                                 matrix[y][1] * taps[3 + x][channel] +
                                                 matrix[y][2] * taps[6 + x][channel];
            for (int y = 0; y < INPUT_PATCH; y++)
                for (int x = 0; x < INPUT_PATCH; x++) {
                    float *weights =
                        to + (((long)(y * INPUT_PATCH + x) * groups + g) * in_padded + i) * GROUP_CHANNELS;
                    for (int channel = 0; channel < GROUP_CHANNELS; channel++)
                        weights[channel] = (float)(halfway[y][0][channel] * matrix[x][0] +
                                                   halfway[y][1][channel] * matrix[x][1] +
                                                   halfway[y][2][channel] * matrix[x][2]);
                }
        }
}

int convolution_pack(struct convolution *convolution, const float *kernel, const float *bias, int out, int in,
                     int size, int stride)
{
    int in_padded = round_up(in, SIMD_WIDTH), out_padded = round_up(out, GROUP_CHANNELS);
    int winograd = size == 3 && stride == 1, area = winograd ? POSITIONS : size * size;
    long floats = (long)area * in_padded * out_padded;
    *convolution = (struct convolution){in_padded, out_padded, size, stride, winograd, NULL, NULL};
    convolution->weights = allocate_floats(floats);
    convolution->bias = allocate_floats(out_padded);
    if (!convolution->weights || !convolution->bias)
        return -1;
    memset(convolution->bias, 0, out_padded * sizeof(float));
    memcpy(convolution->bias, bias, out * sizeof(float));
    int groups = out_padded / GROUP_CHANNELS;
    if (winograd) {
        memset(convolution->weights, 0, floats * sizeof(float));
        pack_winograd(convolution->weights, kernel, out, in, in_padded, groups);
    } else {
        pack_directly(convolution->weights, kernel, out, in, in_padded, groups, size);
    }
    return 0;
}

void convolution_free(struct convolution *convolution)
{
    free(convolution->weights);
    free(convolution->bias);
}
