#include "convolution.h"

#include "memory.h"
#include "product.h"
#include "winograd.h"

/* Computes some rows of the output for some groups of output channels. */
static void direct_task(void *context, int number, int thread)
{
    (void)thread;
    const struct convolution_job *job = context;
    const struct convolution *convolution = job->convolution;
    const struct feature_map *from = job->from, *to = job->to;
    int size = convolution->size, stride = convolution->stride, border = size / 2;
    int groups = convolution->out_channels / GROUP_CHANNELS, blocks = from->channels / SIMD_WIDTH;
    int part = number % job->parts, group_part = number / job->parts;
    int first_y = start_of_part(part, job->parts, to->height),
        last_y = start_of_part(part + 1, job->parts, to->height);
    int first_group = start_of_part(group_part, job->group_parts, groups),
        last_group = start_of_part(group_part + 1, job->group_parts, groups);
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
    job->group_parts = threads == 1 ? 1 : groups;
    job->parts = threads == 1 ? 1 : MIN(job->to->height, MAX(1, 4 * threads / groups));
    thread_pool_run(pool, job->parts * job->group_parts, direct_task, job);
}

long convolution_scratch(const struct convolution *convolution, int height, int width, int threads)
{
    return convolution->winograd ? winograd_scratch(convolution, height, width, threads) : 0;
}

void convolve(struct thread_pool *pool, const struct convolution *convolution, const struct feature_map *from,
              const struct feature_map *shortcut, int relu, const struct feature_map *to, float *scratch,
              long scratch_floats)
{
    struct convolution_job job = {convolution, from, shortcut, to, relu, scratch, scratch_floats, 1, 1};
    if (convolution->winograd)
        winograd_convolve(pool, &job);
    else
        convolve_directly(pool, &job);
}

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
        winograd_pack(convolution->weights, kernel, out, in, in_padded, groups);
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
