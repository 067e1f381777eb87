#include "winograd.h"

#include "product.h"
#include "winograd_transform.h"

/* The transformed inputs and outputs of one task fit into a core's second-level cache. */
#define SCRATCH_BYTES (1 << 20)

/* The number of patches in one row of a feature map. */
static int patches_across(const struct feature_map *map) { return (map->width + PATCH - 1) / PATCH; }

/* The patches and the groups of output channels of one task. */
struct extent {
    int first_patch, patches, first_group, groups;
};

static void winograd_transform_inputs(const struct convolution_job *job, struct extent extent, float *inputs)
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

static void winograd_multiply(const struct convolution_job *job, struct extent extent, const float *inputs,
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

static void winograd_transform_outputs(const struct convolution_job *job, struct extent extent,
                                       const float *sums)
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
    int part = number % job->parts, group_part = number / job->parts;
    /* Every part but the last has whole products of PRODUCT_ROWS patches. */
    int steps = (patches + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
    struct extent extent;
    extent.first_patch = start_of_part(part, job->parts, steps) * PRODUCT_ROWS;
    extent.patches =
        MIN(patches, start_of_part(part + 1, job->parts, steps) * PRODUCT_ROWS) - extent.first_patch;
    extent.first_group = start_of_part(group_part, job->group_parts, groups);
    extent.groups = start_of_part(group_part + 1, job->group_parts, groups) - extent.first_group;
    float *inputs = job->scratch + thread * job->scratch_floats;
    float *sums =
        inputs + (long)POSITIONS * round_up(extent.patches, PRODUCT_ROWS) * convolution->in_channels;
    winograd_transform_inputs(job, extent, inputs);
    winograd_multiply(job, extent, inputs, sums);
    winograd_transform_outputs(job, extent, sums);
}

/* Divides a Winograd convolution: its patches into parts whose scratch memory stays in the cache, and its
   groups of output channels into so many parts that every thread has a task. */
static void divide(const struct convolution *convolution, int height, int width, int threads, int *parts,
                   int *group_parts)
{
    int steps = (count_patches(height, width) + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
    long step_bytes =
        (long)POSITIONS * PRODUCT_ROWS * (convolution->in_channels + convolution->out_channels) * 4;
    /* Each part reads all weights, so with more weights than pixels there are a few large parts. */
    int steps_at_once = (int)MAX(4, SCRATCH_BYTES / step_bytes);
    int groups = convolution->out_channels / GROUP_CHANNELS;
    *parts = (steps + steps_at_once - 1) / steps_at_once;
    *group_parts = threads == 1 ? 1 : MIN(groups, (threads + *parts - 1) / *parts);
}

void winograd_convolve(struct thread_pool *pool, struct convolution_job *job)
{
    divide(job->convolution, job->to->height, job->to->width, thread_pool_size(pool), &job->parts,
           &job->group_parts);
    thread_pool_run(pool, job->parts * job->group_parts, winograd_task, job);
}

long winograd_scratch(const struct convolution *convolution, int height, int width, int threads)
{
    int parts, group_parts;
    divide(convolution, height, width, threads, &parts, &group_parts);
    int steps = (count_patches(height, width) + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
    int groups = convolution->out_channels / GROUP_CHANNELS;
    long patches = (long)(steps + parts - 1) / parts * PRODUCT_ROWS;
    long channels = convolution->in_channels + (groups + group_parts - 1) / group_parts * GROUP_CHANNELS;
    return POSITIONS * patches * channels;
}
