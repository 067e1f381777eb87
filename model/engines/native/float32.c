#include "float32.h"

#include "convolution.h"
#include "stem.h"

#include <stdlib.h>

struct residual_block {
    struct convolution first, second, shortcut; /* shortcut: of the first block of stages 1 to 3 */
};

struct float32_network {
    int skips;
    struct stem stem;
    struct residual_block blocks[RESIDUAL_BLOCKS];
    struct convolution classifiers[MAX_SKIPS + 1]; /* of the last stage, and of each skip */
};

static void lay_out(float *memory, int height, int width, struct feature_map maps[STAGES][FEATURE_MAPS])
{
    for (int stage = 0; stage < STAGES; stage++)
        for (int number = 0; number < FEATURE_MAPS; number++) {
            int channels = channels_at(stage), h = side_at(stage, height), w = side_at(stage, width);
            maps[stage][number] = feature_map_in(memory, channels, h, w);
            memory += feature_map_floats(channels, h, w);
        }
}

long float32_floats(int height, int width)
{
    long floats = 0;
    for (int stage = 0; stage < STAGES; stage++)
        floats += FEATURE_MAPS *
                  feature_map_floats(channels_at(stage), side_at(stage, height), side_at(stage, width));
    return floats;
}

void float32_clear_borders(float *memory, int height, int width)
{
    struct feature_map maps[STAGES][FEATURE_MAPS];
    lay_out(memory, height, width, maps);
    for (int stage = 0; stage < STAGES; stage++)
        for (int number = 0; number < FEATURE_MAPS; number++)
            clear_border(&maps[stage][number]);
}

long float32_scratch(const struct float32_network *network, int height, int width, int threads)
{
    long floats = stem_scratch(&network->stem, width);
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        int h = side_at(stage_of(b), height), w = side_at(stage_of(b), width);
        floats = MAX(floats, convolution_scratch(&network->blocks[b].second, h, w, threads));
    }
    return floats;
}

void float32_run(const struct float32_network *network, struct thread_pool *pool, const uint8_t *canvas,
                 int height, int width, float *memory, const struct feature_map *logits, float *scratch,
                 long scratch_floats)
{
    struct feature_map maps[STAGES][FEATURE_MAPS];
    lay_out(memory, height, width, maps);
    const struct feature_map *x = &maps[0][0];
    stem_apply(pool, &network->stem, canvas, &maps[0][0], scratch, scratch_floats);
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        const struct residual_block *block = &network->blocks[b];
        struct feature_map *identity = &maps[stage_of(b)][0], *middle = identity + 1;
        convolve(pool, &block->first, x, NULL, 1, middle, scratch, scratch_floats);
        if (has_shortcut(b))
            convolve(pool, &block->shortcut, x, NULL, 0, identity, scratch, scratch_floats);
        convolve(pool, &block->second, middle, identity, 1, identity, scratch, scratch_floats);
        x = identity;
    }
    for (int c = 0; c <= network->skips; c++)
        convolve(pool, &network->classifiers[c], &maps[classified_stage(c)][0], NULL, 0, &logits[c], scratch,
                 scratch_floats);
}

static int pack(struct float32_network *network, const float *const *tensors, const float *levels,
                int classes)
{
    int failed = stem_pack(&network->stem, tensors[0], tensors[1], channels_at(0), levels);
    tensors += 2;
    for (int b = 0; b < RESIDUAL_BLOCKS && !failed; b++) {
        struct residual_block *block = &network->blocks[b];
        int stage = stage_of(b), out = channels_at(stage), in = has_shortcut(b) ? out / 2 : out;
        int stride = has_shortcut(b) ? 2 : 1;
        failed |= convolution_pack(&block->first, tensors[0], tensors[1], out, in, 3, stride);
        failed |= convolution_pack(&block->second, tensors[2], tensors[3], out, out, 3, 1);
        tensors += 4;
        if (has_shortcut(b)) {
            failed |= convolution_pack(&block->shortcut, tensors[0], tensors[1], out, in, 1, 2);
            tensors += 2;
        }
    }
    for (int c = 0; c <= network->skips && !failed; c++, tensors += 2)
        failed |= convolution_pack(&network->classifiers[c], tensors[0], tensors[1], classes,
                                   channels_at(classified_stage(c)), 1, 1);
    return failed;
}

struct float32_network *float32_pack(const float *const *tensors, const float *levels, int classes, int skips)
{
    struct float32_network *network = calloc(1, sizeof *network);
    if (!network)
        return NULL;
    network->skips = skips;
    if (!pack(network, tensors, levels, classes))
        return network;
    float32_free(network);
    return NULL;
}

void float32_free(struct float32_network *network)
{
    stem_free(&network->stem);
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        convolution_free(&network->blocks[b].first);
        convolution_free(&network->blocks[b].second);
        convolution_free(&network->blocks[b].shortcut);
    }
    for (int c = 0; c <= MAX_SKIPS; c++)
        convolution_free(&network->classifiers[c]);
    free(network);
}
