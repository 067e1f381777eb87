#include "bfloat16.h"

#if defined(__AVX512F__) && defined(__linux__)

#include "bfloat16_convolution.h"
#include "bfloat16_stem.h"
#include "network.h"

#include <cpuid.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

struct bfloat16_network {
    struct bfloat16_stem stem;
    struct bfloat16_convolution first[RESIDUAL_BLOCKS], second[RESIDUAL_BLOCKS], shortcut[RESIDUAL_BLOCKS];
    struct bfloat16_convolution classifiers[MAX_SKIPS + 1]; /* of the last stage, and of each skip */
    int skips;
};

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
    /* Clears everything, because values that a register reads past a row's end must be finite, too. */
    memset(memory, 0, bfloat16_floats(height, width) * sizeof *memory);
}

long bfloat16_scratch(int width) { return bfloat16_stem_scratch(width); }

void bfloat16_run(const struct bfloat16_network *network, struct thread_pool *pool, const uint8_t *canvas,
                  int height, int width, float *memory, const struct feature_map *logits, float *scratch,
                  long scratch_floats)
{
    struct bfloat16_feature_map maps[STAGES][FEATURE_MAPS];
    lay_out(memory, height, width, maps);
    const struct bfloat16_feature_map *x = &maps[0][0];
    bfloat16_stem_apply(pool, &network->stem, canvas, x, scratch, scratch_floats);
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        struct bfloat16_feature_map *identity = &maps[stage_of(b)][0], *middle = identity + 1;
        bfloat16_convolve(pool, &network->first[b], x, NULL, 1, middle, NULL);
        if (has_shortcut(b))
            bfloat16_convolve(pool, &network->shortcut[b], x, NULL, 0, identity, NULL);
        bfloat16_convolve(pool, &network->second[b], middle, identity, 1, identity, NULL);
        x = identity;
    }
    for (int c = 0; c <= network->skips; c++)
        bfloat16_convolve(pool, &network->classifiers[c], &maps[classified_stage(c)][0], NULL, 0, NULL,
                          &logits[c]);
}

struct bfloat16_network *bfloat16_pack(const float *const *tensors, const float *levels, int classes,
                                       int skips)
{
    struct bfloat16_network *network = calloc(1, sizeof *network);
    if (!network)
        return NULL;
    network->skips = skips;
    int failed = bfloat16_stem_pack(&network->stem, tensors[0], tensors[1], levels);
    tensors += 2;
    for (int b = 0; b < RESIDUAL_BLOCKS && !failed; b++) {
        int out = channels_at(stage_of(b)), in = has_shortcut(b) ? out / 2 : out;
        int stride = has_shortcut(b) ? 2 : 1;
        failed |= bfloat16_convolution_pack(&network->first[b], tensors[0], tensors[1], out, in, 3, stride);
        failed |= bfloat16_convolution_pack(&network->second[b], tensors[2], tensors[3], out, out, 3, 1);
        tensors += 4;
        if (has_shortcut(b)) {
            failed |= bfloat16_convolution_pack(&network->shortcut[b], tensors[0], tensors[1], out, in, 1, 2);
            tensors += 2;
        }
    }
    for (int c = 0; c <= skips && !failed; c++, tensors += 2)
        failed |= bfloat16_convolution_pack(&network->classifiers[c], tensors[0], tensors[1], classes,
                                            channels_at(classified_stage(c)), 1, 1);
    if (!failed)
        return network;
    bfloat16_free(network);
    return NULL;
}

void bfloat16_free(struct bfloat16_network *network)
{
    bfloat16_stem_free(&network->stem);
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        bfloat16_convolution_free(&network->first[b]);
        bfloat16_convolution_free(&network->second[b]);
        bfloat16_convolution_free(&network->shortcut[b]);
    }
    for (int c = 0; c <= MAX_SKIPS; c++)
        bfloat16_convolution_free(&network->classifiers[c]);
    free(network);
}

#include "amx_end.h"

#else /* no AMX in this kind of processor */

int bfloat16_is_supported(void) { return 0; }

struct bfloat16_network *bfloat16_pack(const float *const *tensors, const float *levels, int classes,
                                       int skips)
{
    (void)tensors, (void)levels, (void)classes, (void)skips;
    return NULL;
}

void bfloat16_free(struct bfloat16_network *network) { (void)network; }
long bfloat16_floats(int height, int width) { return 0L * height * width; }
long bfloat16_scratch(int width) { return 0L * width; }

void bfloat16_clear_borders(float *memory, int height, int width) { (void)memory, (void)height, (void)width; }

void bfloat16_run(const struct bfloat16_network *network, struct thread_pool *pool, const uint8_t *canvas,
                  int height, int width, float *memory, const struct feature_map *logits, float *scratch,
                  long scratch_floats)
{
    (void)network, (void)pool, (void)canvas, (void)height, (void)width, (void)memory, (void)logits;
    (void)scratch, (void)scratch_floats;
}

#endif
