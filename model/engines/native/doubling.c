#include "doubling.h"

#include "memory.h"

#define KERNEL 4

struct doubling_job {
    const struct doubling *doubling;
    const struct feature_map *from, *to;
};

/* An output has two inputs along each side. The positions of one of them and of its weight. */
struct tap {
    int input, weight;
};

static struct tap find_tap(int i, int number)
{
    int odd = i % 2;
    if (number == 0)
        return (struct tap){i / 2, 1 + odd};
    return (struct tap){i / 2 + (odd ? 1 : -1), odd ? 0 : 3};
}

/* Computes a row of the output. */
static void doubling_task(void *context, int y, int thread)
{
    (void)thread;
    const struct doubling_job *job = context;
    const struct doubling *doubling = job->doubling;
    const struct feature_map *from = job->from, *to = job->to;
    for (int x = 0; x < to->width; x++) {
        const float *values[4], *weights[4];
        for (int i = 0; i < 4; i++) {
            struct tap row = find_tap(y, i / 2), column = find_tap(x, i % 2);
            values[i] = pixel(from, 0, row.input, column.input);
            weights[i] = doubling->weights +
                         (long)(row.weight * KERNEL + column.weight) * doubling->classes * doubling->channels;
        }
        for (int block = 0; block < doubling->channels / SIMD_WIDTH; block++) {
            vec sums[4] = {load(pixel(to, block, y, x))};
            for (int class = 0; class < doubling->classes; class++) {
                long at = class / SIMD_WIDTH * from->plane + class % SIMD_WIDTH;
                long weight = (long)class * doubling->channels + block * SIMD_WIDTH;
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++)
                    sums[i] += splat(values[i][at]) * load(weights[i] + weight);
            }
            store(pixel(to, block, y, x), (sums[0] + sums[1]) + (sums[2] + sums[3]));
        }
    }
}

void add_doubled(struct thread_pool *pool, const struct doubling *doubling, const struct feature_map *from,
                 const struct feature_map *to)
{
    struct doubling_job job = {doubling, from, to};
    thread_pool_run(pool, to->height, doubling_task, &job);
}

int doubling_pack(struct doubling *doubling, const float *kernel, int classes)
{
    int channels = round_up(classes, GROUP_CHANNELS), area = KERNEL * KERNEL;
    *doubling = (struct doubling){classes, channels, allocate_floats((long)area * classes * channels)};
    if (!doubling->weights)
        return -1;
    float *to = doubling->weights;
    for (int place = 0; place < area; place++)
        for (int in = 0; in < classes; in++)
            for (int out = 0; out < channels; out++)
                *to++ = out < classes ? kernel[((long)in * classes + out) * area + place] : 0;
    return 0;
}

void doubling_free(struct doubling *doubling) { free(doubling->weights); }
