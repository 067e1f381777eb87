#include "convolution.h"

#include "memory.h"
#include "product.h"

/* Weights are asked for this many floats before they are needed: the processor's own prefetching stops at
   the end of each page. */
#define AHEAD 1024
#define LINE 16

/* Of the transformed inputs and outputs of one task: about what a core's second cache holds. */
#define SCRATCH_BYTES (1 << 20)

/* ---- the inner product ---- */

INLINE void sum_products(int rows, int step, const float *x, long block, long row, int blocks, int size,
                         const float *weights, float *to, long column)
{
    vec sums[ROWS][COLUMNS] = {0};
    for (int b = 0; b < blocks; b++)
        for (int dy = 0; dy < size; dy++)
            for (int dx = 0; dx < size; dx++) {
                const float *from = x + b * block + dy * row + dx * LANES;
                for (int k = 0; k < LANES; k++, weights += COLUMNS * LANES) {
                    for (int c = 0; c < COLUMNS * LANES; c += LINE)
                        __builtin_prefetch(weights + AHEAD + c);
                    add_products(rows, sums, from + k, step * LANES, weights);
                }
            }
    store_sums(rows, sums, to, LANES, column);
}

/* For `rows` pixels, `step` apart, the sums over blocks of channels and size x size neighbours, for
   COLUMNS vectors of outputs: [step - 1][rows - 1]. */
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
#if ROWS == 12
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
static const product products[2][ROWS] = {{NAMES(1) MORE_NAMES(1)}, {NAMES(2) MORE_NAMES(2)}};
/* clang-format on */

/* ---- what all convolutions end with ---- */

struct job {
    const struct convolution *convolution;
    const struct picture *from, *shortcut, *to;
    int relu;
    float *scratch;
    long scratch_floats;
    int parts, groups; /* the work's division: rows or tiles, and output channels */
};

INLINE void finish(const struct job *job, int block, int y, int x, vec sum)
{
    sum += load(job->convolution->bias + block * LANES);
    if (job->shortcut)
        sum += load(pixel(job->shortcut, block, y, x));
    store(pixel(job->to, block, y, x), job->relu ? rectified(sum) : sum);
}

/* ---- direct convolution ---- */

/* A task: some rows of the output, for some groups of output channels. */
static void direct_task(void *context, int number, int worker)
{
    (void)worker;
    const struct job *job = context;
    const struct convolution *convolution = job->convolution;
    const struct picture *from = job->from, *to = job->to;
    int size = convolution->size, stride = convolution->stride, border = size / 2;
    int groups = convolution->out_channels / (COLUMNS * LANES), blocks = from->channels / LANES;
    int part = number % job->parts, group = number / job->parts;
    int first_y = first_of(part, job->parts, to->height), last_y = first_of(part + 1, job->parts, to->height);
    int first_group = first_of(group, job->groups, groups),
        last_group = first_of(group + 1, job->groups, groups);
    long group_weights = (long)convolution->in_channels * size * size * COLUMNS * LANES;
    int pieces = (to->width + ROWS - 1) / ROWS;
    float sums[COLUMNS * ROWS * LANES] __attribute__((aligned(ALIGNMENT)));
    for (int g = first_group; g < last_group; g++)
        for (int y = first_y; y < last_y; y++)
            for (int piece = 0; piece < pieces; piece++) {
                int x = first_of(piece, pieces, to->width), rows = first_of(piece + 1, pieces, to->width) - x;
                products[stride - 1][rows - 1](pixel(from, 0, y * stride - border, x * stride - border),
                                               from->plane, from->row, blocks, size,
                                               convolution->weights + g * group_weights, sums, ROWS * LANES);
                for (int c = 0; c < COLUMNS; c++)
                    for (int r = 0; r < rows; r++)
                        finish(job, g * COLUMNS + c, y, x + r, load(sums + (c * ROWS + r) * LANES));
            }
}

static void convolve_directly(struct team *team, struct job *job)
{
    int workers = team_size(team), groups = job->convolution->out_channels / (COLUMNS * LANES);
    job->groups = workers == 1 ? 1 : groups;
    job->parts = workers == 1 ? 1 : MIN(job->to->height, MAX(1, 4 * workers / groups));
    team_run(team, job->parts * job->groups, direct_task, job);
}

/* ---- Winograd's convolution: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks",
   2015, F(4 x 4, 3 x 3): a tile of 4 x 4 outputs comes from 36 products where a direct one takes 144. ---- */

#define TILE 4
#define SIDE (TILE + 2)
#define POSITIONS (SIDE * SIDE)

/* The matrix G of the kernel's transform. */
static const double KERNEL_TRANSFORM[SIDE][3] = {{1. / 4, 0, 0},
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

/* The matrix A^T times a vector of sums: TILE outputs. */
INLINE void transform_outputs(const vec *m, int apart, vec *to, int to_apart)
{
    const vec plus = m[apart] + m[2 * apart], minus = m[apart] - m[2 * apart];
    const vec plus_2 = m[3 * apart] + m[4 * apart], minus_2 = m[3 * apart] - m[4 * apart];
    to[0] = m[0] + plus + plus_2;
    to[to_apart] = minus + 2 * minus_2;
    to[2 * to_apart] = plus + 4 * plus_2;
    to[3 * to_apart] = minus + 8 * minus_2 + m[5 * apart];
}

/* One tile of one block of channels to its positions, `position` floats apart. */
INLINE void transform_input_tile(const float *from, long row, float *to, long position)
{
    vec inputs[POSITIONS], halfway[POSITIONS];
#pragma GCC unroll 6
    for (int y = 0; y < SIDE; y++)
#pragma GCC unroll 6
        for (int x = 0; x < SIDE; x++)
            inputs[y * SIDE + x] = load(from + y * row + x * LANES);
#pragma GCC unroll 6
    for (int x = 0; x < SIDE; x++)
        transform_inputs(inputs + x, SIDE, halfway + x);
#pragma GCC unroll 6
    for (int y = 0; y < SIDE; y++)
        transform_inputs(halfway + y * SIDE, 1, inputs + y * SIDE);
#pragma GCC unroll 36
    for (int p = 0; p < POSITIONS; p++)
        store(to + p * position, inputs[p]);
}

INLINE void transform_output_tile(const float *from, long position, vec *to)
{
    vec sums[POSITIONS], halfway[TILE * SIDE];
#pragma GCC unroll 36
    for (int p = 0; p < POSITIONS; p++)
        sums[p] = load(from + p * position);
#pragma GCC unroll 6
    for (int x = 0; x < SIDE; x++)
        transform_outputs(sums + x, SIDE, halfway + x, SIDE);
#pragma GCC unroll 4
    for (int y = 0; y < TILE; y++)
        transform_outputs(halfway + y * SIDE, 1, to + y * TILE, 1);
}

/* A picture's tiles, from left to right and down. */
static int tiles_across(const struct picture *picture) { return (picture->width + TILE - 1) / TILE; }

/* Of one task: some tiles, and some groups of output channels. */
struct extent {
    int first_tile, tiles, first_group, groups;
};

static void winograd_inputs(const struct job *job, struct extent extent, float *inputs)
{
    const struct picture *from = job->from;
    int blocks = from->channels / LANES, across = tiles_across(job->to);
    long position = (long)round_up(extent.tiles, ROWS) * blocks * LANES;
    for (int t = 0; t < extent.tiles; t++) {
        int y = (extent.first_tile + t) / across * TILE, x = (extent.first_tile + t) % across * TILE;
        for (int b = 0; b < blocks; b++)
            transform_input_tile(pixel(from, b, y - 1, x - 1), from->row,
                                 inputs + ((long)(t / ROWS * blocks + b) * ROWS + t % ROWS) * LANES,
                                 position);
    }
}

static void winograd_products(const struct job *job, struct extent extent, const float *inputs, float *sums)
{
    const struct convolution *convolution = job->convolution;
    int blocks = job->from->channels / LANES, groups = convolution->out_channels / (COLUMNS * LANES);
    long position = (long)round_up(extent.tiles, ROWS) * blocks * LANES;
    long weights = (long)convolution->in_channels * COLUMNS * LANES;
    for (int p = 0; p < POSITIONS; p++)
        for (int g = 0; g < extent.groups; g++)
            for (int t = 0; t < extent.tiles; t += ROWS) {
                int rows = MIN(ROWS, extent.tiles - t);
                products[0][rows - 1](
                    inputs + p * position + (long)t * blocks * LANES, ROWS * LANES, 0, blocks, 1,
                    convolution->weights + ((long)p * groups + extent.first_group + g) * weights,
                    sums + ((long)(p * extent.groups + g) * COLUMNS * extent.tiles + t) * LANES,
                    (long)extent.tiles * LANES);
            }
}

static void winograd_outputs(const struct job *job, struct extent extent, const float *sums)
{
    const struct picture *to = job->to;
    int across = tiles_across(to), vectors = extent.groups * COLUMNS;
    long position = (long)vectors * extent.tiles * LANES;
    for (int v = 0; v < vectors; v++)
        for (int t = 0; t < extent.tiles; t++) {
            vec outputs[TILE * TILE];
            transform_output_tile(sums + ((long)v * extent.tiles + t) * LANES, position, outputs);
            int y = (extent.first_tile + t) / across * TILE, x = (extent.first_tile + t) % across * TILE;
            int height = MIN(TILE, to->height - y), width = MIN(TILE, to->width - x);
            for (int dy = 0; dy < height; dy++)
                for (int dx = 0; dx < width; dx++)
                    finish(job, extent.first_group * COLUMNS + v, y + dy, x + dx, outputs[dy * TILE + dx]);
        }
}

static int count_tiles(int height, int width)
{
    return ((height + TILE - 1) / TILE) * ((width + TILE - 1) / TILE);
}

static void winograd_task(void *context, int number, int worker)
{
    const struct job *job = context;
    const struct convolution *convolution = job->convolution;
    int tiles = count_tiles(job->to->height, job->to->width);
    int groups = convolution->out_channels / (COLUMNS * LANES);
    int part = number % job->parts, group = number / job->parts;
    /* Whole products of ROWS tiles, but for the last part. */
    int steps = (tiles + ROWS - 1) / ROWS;
    struct extent extent;
    extent.first_tile = first_of(part, job->parts, steps) * ROWS;
    extent.tiles = MIN(tiles, first_of(part + 1, job->parts, steps) * ROWS) - extent.first_tile;
    extent.first_group = first_of(group, job->groups, groups);
    extent.groups = first_of(group + 1, job->groups, groups) - extent.first_group;
    float *inputs = job->scratch + worker * job->scratch_floats;
    float *sums = inputs + (long)POSITIONS * round_up(extent.tiles, ROWS) * convolution->in_channels;
    winograd_inputs(job, extent, inputs);
    winograd_products(job, extent, inputs, sums);
    winograd_outputs(job, extent, sums);
}

/* How a Winograd convolution is shared out: parts of tiles whose scratch stays in the cache, and as
   many groups of output channels as give every worker something to do. */
static void divide(const struct convolution *convolution, int height, int width, int workers, int *parts,
                   int *groups)
{
    int steps = (count_tiles(height, width) + ROWS - 1) / ROWS;
    long step_bytes = (long)POSITIONS * ROWS * (convolution->in_channels + convolution->out_channels) * 4;
    /* Each part reads all weights: few, where the weights outweigh the picture. */
    int steps_at_once = (int)MAX(4, SCRATCH_BYTES / step_bytes);
    int all_groups = convolution->out_channels / (COLUMNS * LANES);
    *parts = (steps + steps_at_once - 1) / steps_at_once;
    *groups = workers == 1 ? 1 : MIN(all_groups, (workers + *parts - 1) / *parts);
}

long convolution_scratch(const struct convolution *convolution, int height, int width, int workers)
{
    if (!convolution->winograd)
        return 0;
    int parts, groups;
    divide(convolution, height, width, workers, &parts, &groups);
    int steps = (count_tiles(height, width) + ROWS - 1) / ROWS;
    int all_groups = convolution->out_channels / (COLUMNS * LANES);
    long tiles = (long)(steps + parts - 1) / parts * ROWS;
    long channels = convolution->in_channels + (all_groups + groups - 1) / groups * COLUMNS * LANES;
    return POSITIONS * tiles * channels;
}

void convolve(struct team *team, const struct convolution *convolution, const struct picture *from,
              const struct picture *shortcut, int relu, const struct picture *to, float *scratch,
              long scratch_floats)
{
    struct job job = {convolution, from, shortcut, to, relu, scratch, scratch_floats, 1, 1};
    if (!convolution->winograd) {
        convolve_directly(team, &job);
        return;
    }
    divide(convolution, to->height, to->width, team_size(team), &job.parts, &job.groups);
    team_run(team, job.parts * job.groups, winograd_task, &job);
}

/* ---- weights ---- */

static void pack_directly(float *to, const float *kernel, int out, int in, int in_padded, int groups,
                          int size)
{
    int area = size * size;
    for (int g = 0; g < groups; g++)
        for (int b = 0; b < in_padded / LANES; b++)
            for (int p = 0; p < area; p++)
                for (int k = 0; k < LANES; k++)
                    for (int lane = 0; lane < COLUMNS * LANES; lane++, to++) {
                        int o = g * COLUMNS * LANES + lane, i = b * LANES + k;
                        *to = o < out && i < in ? kernel[((long)o * in + i) * area + p] : 0;
                    }
}

/* G g G^T of each kernel: (positions, groups, in_padded, lanes). */
static void pack_winograd(float *to, const float *kernel, int out, int in, int in_padded, int groups)
{
    const double (*matrix)[3] = KERNEL_TRANSFORM;
    const int lanes = COLUMNS * LANES;
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < in; i++) {
            double taps[9][COLUMNS * LANES] = {{0}}, halfway[SIDE][3][COLUMNS * LANES];
            for (int lane = 0; lane < MIN(lanes, out - g * lanes); lane++)
                for (int tap = 0; tap < 9; tap++)
                    taps[tap][lane] = kernel[((long)(g * lanes + lane) * in + i) * 9 + tap];
            for (int y = 0; y < SIDE; y++)
                for (int x = 0; x < 3; x++)
                    for (int lane = 0; lane < lanes; lane++)
                        halfway[y][x][lane] = matrix[y][0] * taps[x][lane] +
                                              matrix[y][1] * taps[3 + x][lane] +
                                              matrix[y][2] * taps[6 + x][lane];
            for (int y = 0; y < SIDE; y++)
                for (int x = 0; x < SIDE; x++) {
                    float *weights = to + (((long)(y * SIDE + x) * groups + g) * in_padded + i) * lanes;
                    for (int lane = 0; lane < lanes; lane++)
                        weights[lane] =
                            (float)(halfway[y][0][lane] * matrix[x][0] + halfway[y][1][lane] * matrix[x][1] +
                                    halfway[y][2][lane] * matrix[x][2]);
                }
        }
}

int convolution_pack(struct convolution *convolution, const float *kernel, const float *bias, int out, int in,
                     int size, int stride)
{
    int in_padded = round_up(in, LANES), out_padded = round_up(out, COLUMNS * LANES);
    int winograd = size == 3 && stride == 1, area = winograd ? POSITIONS : size * size;
    long floats = (long)area * in_padded * out_padded;
    *convolution = (struct convolution){in_padded, out_padded, size, stride, winograd, NULL, NULL};
    convolution->weights = allocate_floats(floats);
    convolution->bias = allocate_floats(out_padded);
    if (!convolution->weights || !convolution->bias)
        return -1;
    memset(convolution->bias, 0, out_padded * sizeof(float));
    memcpy(convolution->bias, bias, out * sizeof(float));
    int groups = out_padded / (COLUMNS * LANES);
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
