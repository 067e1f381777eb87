/* What must hold of the native engine's parts for any size, number of classes, region and pool of threads,
   against a reference that is plain and in double. The same cases at every run of a seed:

       properties SEED ROUNDS

   Built and run in all widths of vectors, and with sanitizers, by tests/native/__main__.py. */
#include "bfloat16.h"
#include "convolution.h"
#include "engine.h"
#include "head.h"
#include "memory.h"
#include "network.h"
#include "stem.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>

#define TILE 32
#define POOLS 4
#define FIRST_HUGE_LEVEL 240 /* of red: from here on the network may overflow; no other canvas has them */
#define TENSORS 42           /* kernel and bias of 20 convolutions, and of the classifier */

static const int pool_sizes[POOLS] = {1, 2, 3, 5};
static struct thread_pool *pools[POOLS];
static const char *now = "";
static uint64_t state;

/* ---- what cases are made of ---- */

static uint64_t drawn(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int between(int low, int high) { return low + (int)(drawn() >> 33) % (high - low + 1); }
static float normalish(void) { return (between(0, 1 << 20) + between(0, 1 << 20)) / (float)(1 << 20) - 1; }

#define CHECK(what, ...)                                                                                     \
    do {                                                                                                     \
        if (!(what)) {                                                                                       \
            fprintf(stderr, "%s, SIMD width %d: ", now, SIMD_WIDTH);                                         \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fprintf(stderr, "\n");                                                                           \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* Exactly as large as asked for, so that the sanitizer sees the end. */
static void *memory_of(long bytes)
{
    void *memory = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    CHECK(memory, "no memory for %ld bytes", bytes);
    return memory;
}

static float *floats_of(long count, float scale)
{
    float *values = memory_of(count * (long)sizeof *values);
    for (long i = 0; i < count; i++)
        values[i] = scale * normalish();
    return values;
}

static struct feature_map feature_map_of(int channels, int height, int width)
{
    struct feature_map map =
        feature_map_in(floats_of(feature_map_floats(channels, height, width), 1), channels, height, width);
    clear_border(&map);
    return map;
}

static float *memory_behind(const struct feature_map *map) { return pixel(map, 0, -1, -1); }

/* ---- the plain reference: arrays (channels, height, width) of double ---- */

struct plain {
    int channels, height, width;
    double *values;
};

static struct plain plain_of(int channels, int height, int width)
{
    long bytes = (long)channels * height * width * (long)sizeof(double);
    struct plain plain = {channels, height, width, memory_of(bytes)};
    memset(plain.values, 0, bytes);
    return plain;
}

static double *plain_at(const struct plain *plain, int channel, int y, int x)
{
    return plain->values + ((long)channel * plain->height + y) * plain->width + x;
}

static struct plain plain_convolution(const struct plain *from, const float *kernel, const float *bias,
                                      int channels, int size, int stride)
{
    struct plain to = plain_of(channels, from->height / stride, from->width / stride);
    for (int o = 0; o < channels; o++)
        for (int y = 0; y < to.height; y++)
            for (int x = 0; x < to.width; x++) {
                double sum = bias[o];
                for (int i = 0; i < from->channels; i++)
                    for (int dy = 0; dy < size; dy++)
                        for (int dx = 0; dx < size; dx++) {
                            int row = y * stride + dy - size / 2, column = x * stride + dx - size / 2;
                            if (row < 0 || column < 0 || row >= from->height || column >= from->width)
                                continue;
                            sum += *plain_at(from, i, row, column) *
                                   kernel[(((long)o * from->channels + i) * size + dy) * size + dx];
                        }
                *plain_at(&to, o, y, x) = sum;
            }
    return to;
}

static void plain_finish(struct plain *sum, const struct plain *shortcut, int relu)
{
    for (long i = 0; i < (long)sum->channels * sum->height * sum->width; i++) {
        double value = sum->values[i] + (shortcut ? shortcut->values[i] : 0);
        sum->values[i] = relu && value < 0 ? 0 : value;
    }
}

static struct plain plain_maximum(const struct plain *from)
{
    struct plain to = plain_of(from->channels, from->height / 2, from->width / 2);
    for (int c = 0; c < to.channels; c++)
        for (int y = 0; y < to.height; y++)
            for (int x = 0; x < to.width; x++)
                for (int dy = MAX(0, 2 * y - 1); dy <= 2 * y + 1; dy++)
                    for (int dx = MAX(0, 2 * x - 1); dx <= 2 * x + 1; dx++)
                        *plain_at(&to, c, y, x) = fmax(*plain_at(&to, c, y, x), *plain_at(from, c, dy, dx));
    return to;
}

static struct plain plain_feature_map(const struct feature_map *map, int channels)
{
    struct plain plain = plain_of(channels, map->height, map->width);
    for (int c = 0; c < channels; c++)
        for (int y = 0; y < plain.height; y++)
            for (int x = 0; x < plain.width; x++)
                *plain_at(&plain, c, y, x) = pixel(map, c / SIMD_WIDTH, y, x)[c % SIMD_WIDTH];
    return plain;
}

static double largest(const struct plain *plain)
{
    double value = 1e-30;
    for (long i = 0; i < (long)plain->channels * plain->height * plain->width; i++)
        value = fmax(value, fabs(plain->values[i]));
    return value;
}

static void check_close(const struct plain *found, const struct plain *expected)
{
    double allowed = 2e-5 * largest(expected);
    for (long i = 0; i < (long)found->channels * found->height * found->width; i++)
        CHECK(fabs(found->values[i] - expected->values[i]) <= allowed, "value %ld is %g, expected %g", i,
              found->values[i], expected->values[i]);
}

static void check_same(const struct plain *found, const struct plain *first)
{
    long bytes = (long)found->channels * found->height * found->width * (long)sizeof(double);
    CHECK(memcmp(found->values, first->values, bytes) == 0, "depends on the number of threads");
}

/* ---- convolutions ---- */

struct layer {
    struct convolution convolution;
    int in, out, relu;
    struct feature_map from, shortcut;
};

static struct plain convolved(const struct layer *layer, struct thread_pool *pool, int with_shortcut)
{
    int height = layer->shortcut.height, width = layer->shortcut.width, size = thread_pool_size(pool);
    long floats = convolution_scratch(&layer->convolution, height, width, size);
    float *scratch = memory_of(size * floats * (long)sizeof *scratch);
    struct feature_map to = feature_map_of(layer->convolution.out_channels, height, width);
    convolve(pool, &layer->convolution, &layer->from, with_shortcut ? &layer->shortcut : NULL, layer->relu,
             &to, scratch, floats);
    struct plain result = plain_feature_map(&to, layer->out);
    free(memory_behind(&to));
    free(scratch);
    return result;
}

static void check_convolution(void)
{
    static const int sizes[3][2] = {{3, 1}, {3, 2}, {1, 2}};
    const int *kind = sizes[between(0, 2)], stride = kind[1];
    int height = between(1, 23), width = between(1, 23), with_shortcut = between(0, 1);
    struct layer layer = {.in = between(1, 70), .out = between(1, 70), .relu = between(0, 1)};
    float *kernel = floats_of((long)layer.out * layer.in * kind[0] * kind[0], 1);
    float *bias = floats_of(layer.out, 1);
    convolution_pack(&layer.convolution, kernel, bias, layer.out, layer.in, kind[0], stride);
    layer.from = feature_map_of(layer.convolution.in_channels, stride * height, stride * width);
    layer.shortcut = feature_map_of(layer.convolution.out_channels, height, width);
    struct plain from = plain_feature_map(&layer.from, layer.in);
    struct plain shortcut = plain_feature_map(&layer.shortcut, layer.out);
    struct plain expected = plain_convolution(&from, kernel, bias, layer.out, kind[0], stride), first;
    plain_finish(&expected, with_shortcut ? &shortcut : NULL, layer.relu);
    for (int pool = 0; pool < POOLS; pool++) {
        struct plain found = convolved(&layer, pools[pool], with_shortcut);
        if (pool == 0) {
            first = found;
            check_close(&found, &expected);
            continue;
        }
        check_same(&found, &first);
        free(found.values);
    }
    free(first.values), free(expected.values), free(shortcut.values), free(from.values);
    free(memory_behind(&layer.from)), free(memory_behind(&layer.shortcut));
    convolution_free(&layer.convolution);
    free(kernel), free(bias);
}

/* For an image that no test has the memory for: 214 megapixels and more. */
static void check_shares(void)
{
    for (int parts = 1; parts < 1 << 21; parts = parts * 5 / 4 + 1) {
        CHECK(start_of_part(parts, parts, 1 << 24) == 1 << 24, "the last of %d parts ends too early", parts);
        CHECK(start_of_part(parts - 1, parts, 1 << 24) <= start_of_part(parts, parts, 1 << 24), "overflow");
        CHECK(start_of_part(parts - 1, parts, 1 << 24) >= 0, "part %d begins before the image", parts);
    }
}

/* ---- the stem ---- */

static struct plain plain_canvas(const uint8_t *canvas, int height, int width, const float *levels)
{
    struct plain plain = plain_of(3, height, width);
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                *plain_at(&plain, c, y, x) = levels[256 * c + canvas[3 * ((long)y * width + x) + c]];
    return plain;
}

static uint8_t *canvas_of(int height, int width)
{
    uint8_t *canvas = memory_of(3L * height * width);
    for (long i = 0; i < 3L * height * width; i++)
        canvas[i] = (uint8_t)between(0, FIRST_HUGE_LEVEL - 1);
    return canvas;
}

static struct plain plain_stem(const struct plain *canvas, const float *kernel, const float *bias)
{
    struct plain sums = plain_convolution(canvas, kernel, bias, channels_at(0), STEM_SIZE, 2);
    plain_finish(&sums, NULL, 1);
    struct plain result = plain_maximum(&sums);
    free(sums.values);
    return result;
}

static void check_stem(void)
{
    int height = 32 * between(1, 3), width = 32 * between(1, 3), channels = channels_at(0);
    float *kernel = floats_of(channels * 3L * STEM_SIZE * STEM_SIZE, 1), *bias = floats_of(channels, 1);
    float *levels = floats_of(3 * 256, 1);
    uint8_t *canvas = canvas_of(height, width);
    struct stem stem;
    stem_pack(&stem, kernel, bias, channels, levels);
    struct plain plain = plain_canvas(canvas, height, width, levels);
    struct plain expected = plain_stem(&plain, kernel, bias), first;
    for (int pool = 0; pool < POOLS; pool++) {
        long floats = stem_scratch(&stem, width);
        float *scratch = memory_of(pool_sizes[pool] * floats * (long)sizeof *scratch);
        struct feature_map to = feature_map_of(channels, height / 4, width / 4);
        stem_apply(pools[pool], &stem, canvas, &to, scratch, floats);
        struct plain found = plain_feature_map(&to, channels);
        if (pool == 0) {
            first = found;
            check_close(&found, &expected);
        } else {
            check_same(&found, &first);
            free(found.values);
        }
        free(memory_behind(&to)), free(scratch);
    }
    free(first.values), free(expected.values), free(plain.values), free(canvas);
    stem_free(&stem);
    free(kernel), free(bias), free(levels);
}

/* ---- the head ---- */

/* The logits of all pixels of a canvas, each from the four coarse ones around its tile. */
static struct plain plain_logits(const struct plain *coarse, const float *kernel, const float *bias)
{
    int classes = coarse->channels;
    struct plain logits = plain_of(classes, TILE * coarse->height, TILE * coarse->width);
    for (int y = 0; y < logits.height; y++)
        for (int x = 0; x < logits.width; x++) {
            int dy = (y + TILE / 2) % TILE, dx = (x + TILE / 2) % TILE;
            double down = (dy + .5) / TILE, right = (dx + .5) / TILE;
            for (int corner = 0; corner < 4; corner++) {
                int row = (y + TILE / 2) / TILE - 1 + corner / 2;
                int column = (x + TILE / 2) / TILE - 1 + corner % 2;
                if (row < 0 || column < 0 || row >= coarse->height || column >= coarse->width)
                    continue;
                double weight = (corner / 2 ? down : 1 - down) * (corner % 2 ? right : 1 - right);
                for (int c = 0; c < classes; c++)
                    for (int i = kernel ? 0 : c; i < (kernel ? classes : c + 1); i++)
                        *plain_at(&logits, c, y, x) +=
                            *plain_at(coarse, i, row, column) *
                            (kernel ? kernel[(((long)dy * classes + c) * 4 + corner) * classes * TILE +
                                             (long)i * TILE + dx]
                                    : weight);
            }
            for (int c = 0; c < classes; c++)
                *plain_at(&logits, c, y, x) += bias[c];
        }
    return logits;
}

/* Where pixel `i` of `output` lies in `source`, and how far before the next. */
static int plain_source(int i, int source, int output, double *share)
{
    double position = fmax((i + .5) * source / output - .5, 0);
    int first = MIN((int)position, source - 1);
    *share = position - first;
    return first;
}

static double scaled_logit(const struct plain *logits, const struct region *region, int class, int y, int x)
{
    double down, right;
    int row = plain_source(y, region->height, region->output_height, &down);
    int column = plain_source(x, region->width, region->output_width, &right);
    int below = MIN(row + 1, region->height - 1), next = MIN(column + 1, region->width - 1);
    double above =
        *plain_at(logits, class, row, column) * (1 - right) + *plain_at(logits, class, row, next) * right;
    double under =
        *plain_at(logits, class, below, column) * (1 - right) + *plain_at(logits, class, below, next) * right;
    return above * (1 - down) + under * down;
}

/* Each pixel's class has the largest logit, up to rounding. */
static void check_mask(const uint8_t *mask, const struct plain *logits, const struct region *region)
{
    double allowed = 1e-5 * largest(logits);
    for (int y = 0; y < region->output_height; y++)
        for (int x = 0; x < region->output_width; x++) {
            int class = mask[(long)y * region->output_width + x];
            CHECK(class < logits->channels, "class %d of %d at %d, %d", class, logits->channels, y, x);
            double own = scaled_logit(logits, region, class, y, x);
            for (int other = 0; other < logits->channels; other++) {
                double logit = scaled_logit(logits, region, other, y, x);
                CHECK(own >= logit - allowed, "class %d (%g) at %d, %d, where %d has %g", class, own, y, x,
                      other, logit);
            }
        }
}

static struct region region_of(int height, int width)
{
    struct region region = {between(1, height), between(1, width), 0, 0};
    if (between(0, 1)) {
        region.output_height = between(1, 150);
        region.output_width = between(1, 150);
    } else {
        region.output_height = region.height;
        region.output_width = region.width;
    }
    return region;
}

static uint8_t *masked(struct thread_pool *pool, const struct head *head, const struct feature_map *coarse,
                       const struct region *region)
{
    int scaled = region->height != region->output_height || region->width != region->output_width;
    long shared = head_shared_scratch(head, coarse->height, coarse->width, region->output_width);
    long floats = head_scratch(head, coarse->width, scaled);
    float *scratch = memory_of(thread_pool_size(pool) * floats * (long)sizeof *scratch);
    float *common = memory_of(shared * (long)sizeof *common);
    /* The mask's own size, to the byte. */
    uint8_t *mask = malloc((long)region->output_height * region->output_width);
    head_apply(pool, head, coarse, *region, mask, common, scratch, floats);
    free(common), free(scratch);
    return mask;
}

static void check_head(int classes, int dense)
{
    int height = between(1, 3), width = between(1, 4);
    float *bias = floats_of(classes, 1);
    float *kernel = dense ? floats_of(4L * TILE * TILE * classes * classes, 1) : NULL;
    struct head head;
    head_pack(&head, kernel, bias, classes);
    struct feature_map map = feature_map_of(round_up(classes, GROUP_CHANNELS), height, width);
    struct plain coarse = plain_feature_map(&map, classes), logits = plain_logits(&coarse, kernel, bias);
    struct region region = region_of(TILE * height, TILE * width);
    uint8_t *first = masked(pools[0], &head, &map, &region);
    check_mask(first, &logits, &region);
    for (int pool = 1; pool < POOLS; pool++) {
        uint8_t *mask = masked(pools[pool], &head, &map, &region);
        CHECK(memcmp(mask, first, (long)region.output_height * region.output_width) == 0,
              "the mask depends on the number of threads");
        free(mask);
    }
    free(first), free(logits.values), free(coarse.values), free(memory_behind(&map));
    head_free(&head);
    free(kernel), free(bias);
}

/* ---- the whole engine ---- */

struct network {
    int classes;
    float *tensors[TENSORS], *levels, *bias;
};

static void add_layer(struct network *network, int *count, int out, int in, int size)
{
    network->tensors[(*count)++] = floats_of((long)out * in * size * size, sqrtf(6.f / (in * size * size)));
    network->tensors[(*count)++] = floats_of(out, .1f);
}

static struct network network_of(int classes)
{
    struct network network = {.classes = classes};
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
    add_layer(&network, &count, classes, channels_at(STAGES - 1), 1);
    network.levels = floats_of(3 * 256, 1);
    for (int level = FIRST_HUGE_LEVEL; level < 256; level++)
        network.levels[level] = ldexpf(1, 2 * level - 2 * 256 + 128);
    network.bias = floats_of(classes, 1);
    return network;
}

static struct plain plain_network(const struct network *network, const uint8_t *canvas, int height, int width)
{
    float *const *t = network->tensors;
    struct plain image = plain_canvas(canvas, height, width, network->levels);
    struct plain x = plain_stem(&image, t[0], t[1]);
    free(image.values);
    t += 2;
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        int channels = channels_at(stage_of(b)), narrows = has_shortcut(b);
        struct plain middle = plain_convolution(&x, t[0], t[1], channels, 3, narrows ? 2 : 1), shortcut = x;
        plain_finish(&middle, NULL, 1);
        struct plain sums = plain_convolution(&middle, t[2], t[3], channels, 3, 1);
        if (narrows)
            shortcut = plain_convolution(&x, t[4], t[5], channels, 1, 2);
        plain_finish(&sums, &shortcut, 1);
        if (narrows)
            free(shortcut.values);
        free(middle.values), free(x.values);
        x = sums;
        t += narrows ? 6 : 4;
    }
    struct plain logits = plain_convolution(&x, t[0], t[1], network->classes, 1, 1);
    free(x.values);
    return logits;
}

static struct engine *started(const struct network *network, int threads, int bfloat16)
{
    return engine_start((const float *const *)network->tensors, network->levels, NULL, network->bias,
                        network->classes, threads, bfloat16);
}

static struct plain engine_logits(struct engine *engine, int classes, const uint8_t *canvas, int height,
                                  int width)
{
    struct plain plain = plain_of(classes, height / TILE, width / TILE);
    long count = (long)classes * plain.height * plain.width;
    float *logits = memory_of(count * (long)sizeof *logits);
    CHECK(engine_coarse_logits(engine, canvas, height, width, logits) == 0, "no memory");
    for (long i = 0; i < count; i++)
        plain.values[i] = logits[i];
    free(logits);
    return plain;
}

/* What overflows in one canvas leaves nothing behind in the next, which uses the same memory. */
static void check_after_overflow(struct engine *engine, int classes)
{
    int height = 2 * TILE, width = 2 * TILE, overflows = 0;
    long count = (long)classes * (height / TILE) * (width / TILE);
    uint8_t *canvas = canvas_of(height, width), *huge = canvas_of(height, width);
    struct plain before = engine_logits(engine, classes, canvas, height, width);
    for (int level = FIRST_HUGE_LEVEL; level < 256; level++) {
        memset(huge, level, 3L * height * width);
        struct plain meanwhile = engine_logits(engine, classes, huge, height, width);
        struct plain after = engine_logits(engine, classes, canvas, height, width);
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
    int workspace, height, width;
    struct region region;
    uint8_t *canvas, *mask;
};

static void *call(void *argument)
{
    struct caller *caller = argument;
    for (int turn = 0; turn < 2; turn++)
        if (engine_segment_single_threaded(caller->engine, caller->workspace, caller->canvas, caller->height,
                                           caller->width, &caller->region, caller->mask) != 0)
            abort();
    return NULL;
}

/* Callers in workspaces of their own get the masks that all threads make for each of them alone. */
static void check_callers(struct engine *engine, int count)
{
    struct caller callers[8];
    for (int i = 0; i < count; i++) {
        struct caller *caller = callers + i;
        *caller = (struct caller){.engine = engine, .workspace = i};
        caller->height = TILE * between(1, 3);
        caller->width = TILE * between(1, 3);
        caller->region = region_of(caller->height, caller->width);
        caller->canvas = canvas_of(caller->height, caller->width);
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
        engine_segment(engine, caller->canvas, caller->height, caller->width, &caller->region, mask);
        CHECK(memcmp(mask, caller->mask, pixels) == 0, "the mask of caller %d depends on the others", i);
        free(mask), free(caller->mask), free(caller->canvas);
    }
}

static void check_engine(int classes, int threads, int bfloat16)
{
    struct network network = network_of(classes);
    struct engine *engine = started(&network, threads, bfloat16);
    CHECK(engine, "it does not start");
    if (!bfloat16) {
        int height = TILE, width = 2 * TILE;
        uint8_t *canvas = canvas_of(height, width);
        struct plain expected = plain_network(&network, canvas, height, width);
        struct plain found = engine_logits(engine, classes, canvas, height, width);
        check_close(&found, &expected);
        free(found.values), free(expected.values), free(canvas);
    }
    check_after_overflow(engine, classes);
    check_callers(engine, threads + 1);
    engine_stop(engine);
    static const int refused[] = {-1, 0, MAX_CLASSES + 1, 300};
    for (int i = 0; i < 4; i++) {
        network.classes = refused[i];
        CHECK(!started(&network, 1, 0), "it starts with %d classes", refused[i]);
    }
    for (int i = 0; i < TENSORS; i++)
        free(network.tensors[i]);
    free(network.levels), free(network.bias);
}

int main(int count, char **arguments)
{
    state = count > 1 ? strtoull(arguments[1], NULL, 10) * 2654435769u + 1 : 1;
    int rounds = count > 2 ? atoi(arguments[2]) : 10;
    static const int many[] = {1, 2, 21, 100, MAX_CLASSES};
    for (int pool = 0; pool < POOLS; pool++)
        pools[pool] = thread_pool_start(pool_sizes[pool]);
    now = "shares of the work";
    check_shares();
    for (int round = 0; round < rounds; round++) {
        now = "convolution";
        check_convolution();
        now = "stem";
        if (round % 4 == 0)
            check_stem();
        now = "bilinear head";
        check_head(many[round % 5], 0);
        now = "dense head";
        check_head(many[round % 3], 1);
    }
    now = "engine";
    check_engine(21, 3, 0);
    now = "engine in bfloat16";
    if (engine_has_bfloat16())
        check_engine(21, 3, 1);
    for (int pool = 0; pool < POOLS; pool++)
        thread_pool_stop(pools[pool]);
    printf("SIMD width %d: %d rounds and the engine hold\n", SIMD_WIDTH, rounds);
    return 0;
}
