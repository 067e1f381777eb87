#if defined(__AVX512F__) && defined(__linux__)

#include "bfloat16_convolution.h"

#include "memory.h"

struct bfloat16_convolution_job {
    const struct bfloat16_convolution *convolution;
    const struct bfloat16_feature_map *from, *shortcut, *to;
    const struct feature_map *logits; /* instead of `to`: float32, neither rectified nor rounded */
    int relu;
    int parts, group_parts; /* as in convolution_job.h */
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

/* Computes the sums of the chunks at `a` and `b` for two registers of output channels: four registers. */
INLINE void multiply_chunks(const struct bfloat16_convolution *convolution,
                            const struct bfloat16_feature_map *from, const bfloat *a, const bfloat *b,
                            const bfloat *weights, float sums[2][2][AMX_ROWS][16])
{
    int size = convolution->size, blocks = from->channels / AMX_DEPTH;
    long bytes = (long)convolution->stride * AMX_DEPTH * sizeof(bfloat);
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
}

/* Computes some chunks, two at a time, for some groups of output channels. */
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
    int part = number % job->parts, group_part = number / job->parts;
    int first = start_of_part(part, job->parts, chunks), last = start_of_part(part + 1, job->parts, chunks);
    float sums[2][2][AMX_ROWS][16] __attribute__((aligned(ALIGNMENT)));
    int first_group = start_of_part(group_part, job->group_parts, groups),
        last_group = start_of_part(group_part + 1, job->group_parts, groups);
    configure_amx();
    for (int g = first_group; g < last_group; g++)
        for (int c = first; c < last; c += 2) {
            struct chunk one = chunk_at(c, across), two = chunk_at(MIN(c + 1, last - 1), across);
            const bfloat *a = bfloat16_pixel(from, 0, one.y * stride - border, one.x * stride - border);
            const bfloat *b = bfloat16_pixel(from, 0, two.y * stride - border, two.x * stride - border);
            const bfloat *weights = convolution->weights + (long)g * blocks * size * size * 2 * AMX_VALUES;
            multiply_chunks(convolution, from, a, b, weights, sums);
            finish_chunk(job, g, one, width, sums[0]);
            if (c + 1 < last)
                finish_chunk(job, g, two, width, sums[1]);
        }
    _tile_release();
}

void bfloat16_convolve(struct thread_pool *pool, const struct bfloat16_convolution *convolution,
                       const struct bfloat16_feature_map *from, const struct bfloat16_feature_map *shortcut,
                       int relu, const struct bfloat16_feature_map *to, const struct feature_map *logits)
{
    int threads = thread_pool_size(pool), groups = convolution->out_channels / AMX_OUTPUTS;
    struct bfloat16_convolution_job job = {convolution, from, shortcut, to, logits, relu, 1, 1};
    if (threads > 1) {
        job.group_parts = MIN(groups, 2 * threads);
        job.parts = MAX(1, MIN(from->height / convolution->stride, 2 * threads / job.group_parts));
    }
    thread_pool_run(pool, job.parts * job.group_parts, convolution_task, &job);
}

int bfloat16_convolution_pack(struct bfloat16_convolution *convolution, const float *kernel,
                              const float *bias, int out, int in, int size, int stride)
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

void bfloat16_convolution_free(struct bfloat16_convolution *convolution)
{
    free(convolution->weights);
    free(convolution->bias);
}

#include "amx_end.h"

#endif
