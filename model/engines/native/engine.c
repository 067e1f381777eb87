/* The memory of a canvas is kept for the next one of its size, unless it is large. */
#include "engine.h"

#include "convolution.h"
#include "head.h"
#include "memory.h"
#include "stem.h"

#define BLOCKS 8
#define LEVELS 4 /* of resolution: canvas / 4, / 8, / 16, / 32, with 64 to 512 channels */
#define PICTURES 2 /* of each level: a block's input, which becomes its output, and its middle */

/* More memory than this is given back after the call. */
#define KEPT_BYTES (256L << 20)

struct block {
    struct convolution first, second, shortcut; /* shortcut: of the first block of levels 1 to 3 */
};

/* The pictures of one canvas on its way. */
struct lane {
    float *memory;
    long floats;
    int height, width;
    struct picture pictures[LEVELS][PICTURES], coarse;
};

struct engine {
    struct team *team, *alone;
    struct stem stem;
    struct block blocks[BLOCKS];
    struct convolution classifier;
    struct head head;
    struct lane *lanes; /* one for each worker */
    float *scratch;
    long scratch_floats; /* of each worker */
};

static int level_of(int block) { return block / 2; }
static int has_shortcut(int block) { return block > 0 && block % 2 == 0; }
static int channels_at(int level) { return 64 << level; }

/* ---- start and stop ---- */

static int pack(struct engine *engine, const float *const *tensors, const float *levels)
{
    int failed = stem_pack(&engine->stem, tensors[0], tensors[1], channels_at(0), levels);
    tensors += 2;
    for (int b = 0; b < BLOCKS && !failed; b++) {
        struct block *block = &engine->blocks[b];
        int level = level_of(b), out = channels_at(level), in = has_shortcut(b) ? out / 2 : out;
        int stride = has_shortcut(b) ? 2 : 1;
        failed |= convolution_pack(&block->first, tensors[0], tensors[1], out, in, 3, stride);
        failed |= convolution_pack(&block->second, tensors[2], tensors[3], out, out, 3, 1);
        tensors += 4;
        if (has_shortcut(b)) {
            failed |= convolution_pack(&block->shortcut, tensors[0], tensors[1], out, in, 1, 2);
            tensors += 2;
        }
    }
    return failed || convolution_pack(&engine->classifier, tensors[0], tensors[1], engine->head.classes,
                                      channels_at(LEVELS - 1), 1, 1);
}

struct engine *engine_start(const float *const *convolutions, const float *levels, const float *head_kernel,
                            const float *head_bias, int classes, int threads)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return NULL;
    engine->team = team_start(threads);
    engine->alone = team_start(1);
    engine->lanes = calloc(threads, sizeof *engine->lanes);
    if (engine->team && engine->alone && engine->lanes &&
        head_pack(&engine->head, head_kernel, head_bias, classes) == 0 && pack(engine, convolutions, levels) == 0)
        return engine;
    engine_stop(engine);
    return NULL;
}

void engine_stop(struct engine *engine)
{
    stem_free(&engine->stem);
    for (int b = 0; b < BLOCKS; b++) {
        convolution_free(&engine->blocks[b].first);
        convolution_free(&engine->blocks[b].second);
        convolution_free(&engine->blocks[b].shortcut);
    }
    convolution_free(&engine->classifier);
    head_free(&engine->head);
    if (engine->lanes && engine->team)
        for (int worker = 0; worker < team_size(engine->team); worker++)
            free(engine->lanes[worker].memory);
    free(engine->lanes);
    free(engine->scratch);
    if (engine->team)
        team_stop(engine->team);
    if (engine->alone)
        team_stop(engine->alone);
    free(engine);
}

/* ---- memory ---- */

static int grow(float **memory, long *floats, long wanted)
{
    if (*floats >= wanted)
        return 0;
    free(*memory);
    *memory = allocate_floats(wanted);
    *floats = *memory ? wanted : 0;
    return *memory ? 0 : -1;
}

/* The lane's pictures for a canvas of this size, their borders zero. */
static int lay_out(const struct engine *engine, struct lane *lane, int height, int width)
{
    if (lane->height == height && lane->width == width)
        return 0;
    int coarse_channels = engine->classifier.out_channels;
    long floats = picture_floats(coarse_channels, height / 32, width / 32);
    for (int level = 0; level < LEVELS; level++)
        floats += PICTURES * picture_floats(channels_at(level), height / (4 << level), width / (4 << level));
    lane->height = lane->width = 0;
    if (grow(&lane->memory, &lane->floats, floats) != 0)
        return -1;
    float *next = lane->memory;
    for (int level = 0; level < LEVELS; level++)
        for (int number = 0; number < PICTURES; number++) {
            int channels = channels_at(level), h = height / (4 << level), w = width / (4 << level);
            lane->pictures[level][number] = picture_in(next, channels, h, w);
            clear_border(&lane->pictures[level][number]);
            next += picture_floats(channels, h, w);
        }
    lane->coarse = picture_in(next, coarse_channels, height / 32, width / 32);
    lane->height = height;
    lane->width = width;
    return 0;
}

/* Scratch memory for every worker, whether they share a canvas or each has its own. */
static int provide_scratch(struct engine *engine, int height, int width, int output_width, int scaled)
{
    int workers = team_size(engine->team);
    long floats = stem_scratch(&engine->stem, width);
    for (int b = 0; b < BLOCKS; b++) {
        int h = height / (4 << level_of(b)), w = width / (4 << level_of(b));
        floats = MAX(floats, convolution_scratch(&engine->blocks[b].second, h, w, workers));
        floats = MAX(floats, convolution_scratch(&engine->blocks[b].second, h, w, 1));
    }
    floats = MAX(floats, head_scratch(&engine->head, width / 32, scaled) +
                             head_shared_scratch(&engine->head, height / 32, width / 32, output_width));
    floats = (floats + LANES - 1) / LANES * LANES;
    long all = engine->scratch_floats * workers;
    int failed = grow(&engine->scratch, &all, floats * workers);
    engine->scratch_floats = all / workers;
    return failed;
}

static void give_large_memory_back(struct engine *engine)
{
    long bytes = engine->scratch_floats * team_size(engine->team) * sizeof(float);
    for (int worker = 0; worker < team_size(engine->team); worker++)
        bytes += engine->lanes[worker].floats * sizeof(float);
    if (bytes <= KEPT_BYTES)
        return;
    for (int worker = 0; worker < team_size(engine->team); worker++) {
        free(engine->lanes[worker].memory);
        engine->lanes[worker] = (struct lane){0};
    }
    free(engine->scratch);
    engine->scratch = NULL;
    engine->scratch_floats = 0;
}

/* ---- a canvas' way ---- */

static void run_network(const struct engine *engine, struct team *team, struct lane *lane,
                        const uint8_t *canvas, float *scratch)
{
    long floats = engine->scratch_floats;
    const struct picture *x = &lane->pictures[0][0];
    stem_apply(team, &engine->stem, canvas, &lane->pictures[0][0], scratch, floats);
    for (int b = 0; b < BLOCKS; b++) {
        const struct block *block = &engine->blocks[b];
        struct picture *identity = &lane->pictures[level_of(b)][0], *middle = identity + 1;
        convolve(team, &block->first, x, NULL, 1, middle, scratch, floats);
        if (has_shortcut(b))
            convolve(team, &block->shortcut, x, NULL, 0, identity, scratch, floats);
        convolve(team, &block->second, middle, identity, 1, identity, scratch, floats);
        x = identity;
    }
    convolve(team, &engine->classifier, x, NULL, 0, &lane->coarse, scratch, floats);
}

static void run_head(const struct engine *engine, struct team *team, const struct lane *lane,
                     struct region region, uint8_t *mask, float *scratch)
{
    /* What the workers share lies at the end of the first one's scratch memory. */
    long shared = head_shared_scratch(&engine->head, lane->coarse.height, lane->coarse.width, region.output_width);
    head_apply(team, &engine->head, &lane->coarse, region, mask, scratch + engine->scratch_floats - shared,
               scratch, engine->scratch_floats);
}

struct batch {
    struct engine *engine;
    const uint8_t *const *canvases;
    const struct region *regions;
    uint8_t *const *masks;
};

static void segment_one(const struct batch *batch, struct team *team, int number, int worker)
{
    struct engine *engine = batch->engine;
    float *scratch = engine->scratch + worker * engine->scratch_floats;
    struct lane *lane = &engine->lanes[worker];
    run_network(engine, team, lane, batch->canvases[number], scratch);
    run_head(engine, team, lane, batch->regions[number], batch->masks[number], scratch);
}

static void segment_alone(void *context, int number, int worker)
{
    const struct batch *batch = context;
    segment_one(batch, batch->engine->alone, number, worker);
}

static int prepare(struct engine *engine, int lanes, int height, int width, int count,
                   const struct region *regions)
{
    int output_width = 0, scaled = 0;
    for (int i = 0; i < count; i++) {
        output_width = MAX(output_width, regions[i].output_width);
        scaled |= regions[i].height != regions[i].output_height || regions[i].width != regions[i].output_width;
    }
    int failed = provide_scratch(engine, height, width, output_width, scaled);
    for (int lane = 0; lane < lanes; lane++)
        failed |= lay_out(engine, &engine->lanes[lane], height, width);
    return failed;
}

/* As many canvases at once as there are threads, each on one, without waiting for each other; what is
   left over is shared by all threads. */
int engine_segment(struct engine *engine, int count, const uint8_t *const *canvases, int height, int width,
                   const struct region *regions, uint8_t *const *masks)
{
    int workers = team_size(engine->team), apart = workers == 1 ? 0 : count - count % workers;
    struct batch batch = {engine, canvases, regions, masks};
    int failed = prepare(engine, apart ? workers : 1, height, width, count, regions);
    if (!failed) {
        if (apart)
            team_run(engine->team, apart, segment_alone, &batch);
        for (int number = apart; number < count; number++)
            segment_one(&batch, engine->team, number, 0);
    }
    give_large_memory_back(engine);
    return failed;
}

int engine_coarse_logits(struct engine *engine, const uint8_t *canvas, int height, int width, float *logits)
{
    const struct region region = {height, width, height, width};
    struct lane *lane = &engine->lanes[0];
    if (prepare(engine, 1, height, width, 1, &region) != 0)
        return -1;
    run_network(engine, engine->team, lane, canvas, engine->scratch);
    for (int class = 0; class < engine->head.classes; class++)
        for (int y = 0; y < lane->coarse.height; y++)
            for (int x = 0; x < lane->coarse.width; x++)
                *logits++ = pixel(&lane->coarse, class / LANES, y, x)[class % LANES];
    return 0;
}

int engine_head(struct engine *engine, const float *logits, int height, int width,
                const struct region *region, uint8_t *mask)
{
    struct lane *lane = &engine->lanes[0];
    if (prepare(engine, 1, 32 * height, 32 * width, 1, region) != 0)
        return -1;
    for (int class = 0; class < engine->head.classes; class++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                pixel(&lane->coarse, class / LANES, y, x)[class % LANES] = *logits++;
    run_head(engine, engine->team, lane, *region, mask, engine->scratch);
    return 0;
}
