#include "properties.h"

#include "cases.h"
#include "engine.h"
#include "network.h"
#include "reference.h"
#include "stem.h"

#include <math.h>
#include <pthread.h>

#define TENSORS 46 /* kernel and bias of 20 convolutions, and of the classifiers */

struct drawn {
    int classes, skips;
    float *tensors[TENSORS], *doublings[MAX_SKIPS], *levels, *bias;
};

static void add_layer(struct drawn *network, int *count, int out, int in, int size)
{
    network->tensors[(*count)++] = draw_floats((long)out * in * size * size, sqrtf(6.f / (in * size * size)));
    network->tensors[(*count)++] = draw_floats(out, .1f);
}

static struct drawn draw_network(int classes, int skips)
{
    struct drawn network = {.classes = classes, .skips = skips};
    int count = 0;
    add_layer(&network, &count, channels_at(0), 3, STEM_SIZE);
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        int out = channels_at(stage_of(b)), in = has_shortcut(b) ? out / 2 : out;
        add_layer(&network, &count, out, in, 3);
        add_layer(&network, &count, out, out, 3);
        if (has_shortcut(b))
            add_layer(&network, &count, out, in, 1);
    }
    /* So that the last block overflows before the others' transforms do. */
    for (long i = 0; i < 9L * channels_at(STAGES - 1) * channels_at(STAGES - 1); i++)
        network.tensors[count - 2][i] *= 1024;
    for (int c = 0; c <= skips; c++)
        add_layer(&network, &count, classes, channels_at(classified_stage(c)), 1);
    for (int skip = 0; skip < skips; skip++)
        network.doublings[skip] = draw_floats(16L * classes * classes, .5f);
    network.levels = draw_floats(3 * 256, 1);
    for (int level = FIRST_HUGE_LEVEL; level < 256; level++)
        network.levels[level] = ldexpf(1, 2 * level - 2 * 256 + 128);
    network.bias = draw_floats(classes, 1);
    return network;
}

/* The transposed convolution of kernel 4, stride 2 and padding 1, written from its definition. */
static void plain_add_doubled(struct plain *to, const struct plain *from, const float *kernel)
{
    for (int i = 0; i < from->channels; i++)
        for (int o = 0; o < to->channels; o++)
            for (int y = 0; y < from->height; y++)
                for (int x = 0; x < from->width; x++)
                    for (int place = 0; place < 16; place++) {
                        int row = 2 * y - 1 + place / 4, column = 2 * x - 1 + place % 4;
                        if (row >= 0 && column >= 0 && row < to->height && column < to->width)
                            *plain_at(to, o, row, column) +=
                                *plain_at(from, i, y, x) * kernel[(i * to->channels + o) * 16L + place];
                    }
}

/* The coarse logits from the output of each stage, which it frees. */
static struct plain plain_logits(const struct drawn *network, struct plain *outputs, float *const *t)
{
    struct plain logits = {0};
    for (int c = 0; c <= network->skips; c++, t += 2) {
        struct plain own = plain_convolve(&outputs[classified_stage(c)], t[0], t[1], network->classes, 1, 1);
        if (c > 0)
            plain_add_doubled(&own, &logits, network->doublings[c - 1]);
        free(logits.values);
        logits = own;
    }
    for (int stage = 0; stage < STAGES; stage++)
        free(outputs[stage].values);
    return logits;
}

static struct plain plain_network(const struct drawn *network, const uint8_t *canvas, int height, int width)
{
    float *const *t = network->tensors;
    struct plain image = plain_canvas(canvas, height, width, network->levels), outputs[STAGES];
    struct plain x = plain_stem(&image, t[0], t[1]);
    free(image.values);
    t += 2;
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        int channels = channels_at(stage_of(b)), narrows = has_shortcut(b);
        struct plain middle = plain_convolve(&x, t[0], t[1], channels, 3, narrows ? 2 : 1), shortcut = x;
        plain_finish(&middle, NULL, 1);
        struct plain sums = plain_convolve(&middle, t[2], t[3], channels, 3, 1);
        if (narrows)
            shortcut = plain_convolve(&x, t[4], t[5], channels, 1, 2);
        plain_finish(&sums, &shortcut, 1);
        free(middle.values);
        if (narrows)
            free(shortcut.values);
        else
            free(x.values);
        x = outputs[stage_of(b)] = sums;
        t += narrows ? 6 : 4;
    }
    return plain_logits(network, outputs, t);
}

static struct engine *start_network(const struct drawn *drawn, int threads, int bfloat16)
{
    struct network network = {(const float *const *)drawn->tensors,
                              (const float *const *)drawn->doublings,
                              drawn->levels,
                              NULL,
                              drawn->bias,
                              drawn->classes,
                              drawn->skips};
    return engine_start(&network, threads, bfloat16);
}

static struct plain engine_logits(struct engine *engine, const struct drawn *network, const uint8_t *canvas,
                                  int height, int width)
{
    int classes = network->classes, stride = stride_with(network->skips);
    struct plain plain = plain_zeros(classes, height / stride, width / stride);
    long count = (long)classes * plain.height * plain.width;
    float *logits = allocate(count * (long)sizeof *logits);
    CHECK(engine_coarse_logits(engine, canvas, height, width, logits) == 0, "no memory");
    for (long i = 0; i < count; i++)
        plain.values[i] = logits[i];
    free(logits);
    return plain;
}

/* What overflows in one canvas leaves nothing behind in the next, which uses the same memory. */
static void check_after_overflow(struct engine *engine, const struct drawn *network)
{
    int height = 2 * TILE, width = 2 * TILE, stride = stride_with(network->skips), overflows = 0;
    long count = (long)network->classes * (height / stride) * (width / stride);
    uint8_t *canvas = draw_canvas(height, width), *huge = draw_canvas(height, width);
    struct plain before = engine_logits(engine, network, canvas, height, width);
    for (int level = FIRST_HUGE_LEVEL; level < 256; level++) {
        memset(huge, level, 3L * height * width);
        struct plain meanwhile = engine_logits(engine, network, huge, height, width);
        struct plain after = engine_logits(engine, network, canvas, height, width);
        for (long i = 0; i < count; i++)
            overflows += !isfinite(meanwhile.values[i]);
        CHECK(memcmp(before.values, after.values, count * (long)sizeof(double)) == 0,
              "what overflowed in one canvas changed the next");
        free(meanwhile.values), free(after.values);
    }
    CHECK(overflows, "nothing has overflowed");
    free(before.values), free(canvas), free(huge);
}

struct caller {
    pthread_t thread;
    struct engine *engine;
    int workspace, height, width, confidence;
    struct region region;
    uint8_t *canvas, *mask;
};

static void *call(void *argument)
{
    struct caller *caller = argument;
    for (int turn = 0; turn < 2; turn++)
        if (engine_segment_single_threaded(caller->engine, caller->workspace, caller->canvas, caller->height,
                                           caller->width, &caller->region, caller->confidence,
                                           caller->mask) != 0)
            abort();
    return NULL;
}

/* Callers in workspaces of their own get the masks that all threads make for each of them alone. */
static void check_callers(struct engine *engine, int count)
{
    struct caller callers[8];
    for (int i = 0; i < count; i++) {
        struct caller *caller = callers + i;
        *caller = (struct caller){.engine = engine, .workspace = i, .confidence = i % 2};
        caller->height = TILE * draw_between(1, 3);
        caller->width = TILE * draw_between(1, 3);
        caller->region = draw_region(caller->height, caller->width);
        caller->canvas = draw_canvas(caller->height, caller->width);
        caller->mask = malloc((long)caller->region.output_height * caller->region.output_width);
    }
    for (int i = 0; i < count; i++)
        pthread_create(&callers[i].thread, NULL, call, callers + i);
    for (int i = 0; i < count; i++)
        pthread_join(callers[i].thread, NULL);
    for (int i = 0; i < count; i++) {
        struct caller *caller = callers + i;
        long pixels = (long)caller->region.output_height * caller->region.output_width;
        uint8_t *mask = malloc(pixels);
        engine_segment(engine, caller->canvas, caller->height, caller->width, &caller->region,
                       caller->confidence, mask);
        CHECK(memcmp(mask, caller->mask, pixels) == 0, "the mask of caller %d depends on the others", i);
        free(mask), free(caller->mask), free(caller->canvas);
    }
}

void check_engine(int classes, int skips, int threads, int bfloat16)
{
    struct drawn network = draw_network(classes, skips);
    struct engine *engine = start_network(&network, threads, bfloat16);
    CHECK(engine, "it does not start");
    if (!bfloat16) {
        int height = TILE, width = 2 * TILE;
        uint8_t *canvas = draw_canvas(height, width);
        struct plain expected = plain_network(&network, canvas, height, width);
        struct plain found = engine_logits(engine, &network, canvas, height, width);
        check_close(&found, &expected);
        free(found.values), free(expected.values), free(canvas);
    }
    check_after_overflow(engine, &network);
    check_callers(engine, threads + 1);
    engine_stop(engine);
    static const int refused[] = {-1, 0, MAX_CLASSES + 1, 300};
    for (int i = 0; i < 4; i++) {
        network.classes = refused[i];
        CHECK(!start_network(&network, 1, 0), "it starts with %d classes", refused[i]);
    }
    for (int i = 0; i < TENSORS; i++)
        free(network.tensors[i]);
    for (int skip = 0; skip < MAX_SKIPS; skip++)
        free(network.doublings[skip]);
    free(network.levels), free(network.bias);
}
