/* The memory of a canvas is kept for the next one of its size; of a large one only a part. */
#include "engine.h"

#include "bfloat16.h"
#include "convolution.h"
#include "head.h"
#include "memory.h"
#include "network.h"
#include "stem.h"

/* What a lane keeps of its pictures after a canvas, the first lane, which the team uses, and each other:
   fresh memory takes 5 % of a canvas' time. And what it keeps of scratch memory for each worker. */
#define KEPT_BYTES_FIRST (64L << 20)
#define KEPT_BYTES_OTHER (32L << 20)
#define KEPT_BYTES_SCRATCH (8L << 20)

/* Of pictures larger than this nothing is kept, for the addresses of the rest stay reserved. */
#define KEPT_WHOLE_BYTES (256L << 20)

struct block {
    struct convolution first, second, shortcut; /* shortcut: of the first block of levels 1 to 3 */
};

/* The memory of one canvas on its way: its pictures, and scratch memory for those who work on it. */
struct lane {
    float *memory, *scratch;
    long floats, scratch_floats;
    int height, width;
    struct picture pictures[LEVELS][PICTURES], coarse;
};

struct engine {
    struct team *team, *alone;
    struct stem stem;
    struct block blocks[BLOCKS];
    struct convolution classifier;
    struct bfloat16_network *bfloat16; /* instead of stem, blocks and classifier, or NULL */
    struct head head;
    struct lane *lanes; /* one more than threads; the team uses the first */
};

/* Who works on which lane. */
struct pass {
    const struct engine *engine;
    struct team *team;
    struct lane *lane;
    long worker_floats; /* of scratch memory, for each of the team */
};

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
                            const float *head_bias, int classes, int threads, int bfloat16)
{
    if (classes < 1 || classes > MAX_CLASSES)
        return NULL;
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return NULL;
    engine->team = team_start(threads);
    engine->alone = team_start(1);
    engine->lanes = calloc(threads + 1, sizeof *engine->lanes);
    int failed = !engine->team || !engine->alone || !engine->lanes ||
                 head_pack(&engine->head, head_kernel, head_bias, classes) != 0;
    if (!failed && bfloat16)
        failed = !(engine->bfloat16 = bfloat16_pack(convolutions, levels, classes));
    else if (!failed)
        failed = pack(engine, convolutions, levels);
    if (!failed)
        return engine;
    engine_stop(engine);
    return NULL;
}

int engine_has_bfloat16(void) { return bfloat16_is_supported(); }

static void empty(struct lane *lane)
{
    free(lane->memory);
    free(lane->scratch);
    *lane = (struct lane){0};
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
    if (engine->bfloat16)
        bfloat16_free(engine->bfloat16);
    head_free(&engine->head);
    if (engine->lanes && engine->team)
        for (int lane = 0; lane <= team_size(engine->team); lane++)
            empty(&engine->lanes[lane]);
    free(engine->lanes);
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
    int coarse_channels = round_up(engine->head.classes, COLUMNS * LANES);
    long coarse_floats = picture_floats(coarse_channels, height / 32, width / 32), floats = coarse_floats;
    for (int level = 0; level < LEVELS && !engine->bfloat16; level++)
        floats +=
            PICTURES * picture_floats(channels_at(level), side_at(level, height), side_at(level, width));
    if (engine->bfloat16)
        floats += bfloat16_floats(height, width);
    lane->height = lane->width = 0;
    if (grow(&lane->memory, &lane->floats, floats) != 0)
        return -1;
    float *next = lane->memory + coarse_floats;
    if (engine->bfloat16)
        bfloat16_clear_borders(next, height, width);
    for (int level = 0; level < LEVELS && !engine->bfloat16; level++)
        for (int number = 0; number < PICTURES; number++) {
            int channels = channels_at(level), h = side_at(level, height), w = side_at(level, width);
            lane->pictures[level][number] = picture_in(next, channels, h, w);
            clear_border(&lane->pictures[level][number]);
            next += picture_floats(channels, h, w);
        }
    lane->coarse = picture_in(lane->memory, coarse_channels, height / 32, width / 32);
    lane->height = height;
    lane->width = width;
    return 0;
}

/* Scratch memory for everyone who works on the lane, and at the end of the first one's for what they share
   in the head. */
static int provide_scratch(struct pass *pass, int height, int width, const struct region *region)
{
    const struct engine *engine = pass->engine;
    int workers = team_size(pass->team);
    int scaled = region->height != region->output_height || region->width != region->output_width;
    long floats = engine->bfloat16 ? bfloat16_scratch(width) : stem_scratch(&engine->stem, width);
    for (int b = 0; b < BLOCKS && !engine->bfloat16; b++) {
        int h = side_at(level_of(b), height), w = side_at(level_of(b), width);
        floats = MAX(floats, convolution_scratch(&engine->blocks[b].second, h, w, workers));
    }
    floats =
        MAX(floats, head_scratch(&engine->head, width / 32, scaled) +
                        head_shared_scratch(&engine->head, height / 32, width / 32, region->output_width));
    pass->worker_floats = (floats + LANES - 1) / LANES * LANES;
    return grow(&pass->lane->scratch, &pass->lane->scratch_floats, workers * pass->worker_floats);
}

static int begin(struct pass *pass, struct engine *engine, struct team *team, int lane, int height, int width,
                 const struct region *region)
{
    *pass = (struct pass){engine, team, &engine->lanes[lane], 0};
    return provide_scratch(pass, height, width, region) != 0 ? -1
                                                             : lay_out(engine, pass->lane, height, width);
}

static void end(struct pass *pass)
{
    struct lane *lane = pass->lane;
    long bytes = lane->floats * (long)sizeof(float), scratch = lane->scratch_floats * (long)sizeof(float);
    if (bytes > KEPT_WHOLE_BYTES || scratch > team_size(pass->team) * KEPT_BYTES_SCRATCH)
        empty(lane);
    else
        give_back(lane->memory, bytes, lane == pass->engine->lanes ? KEPT_BYTES_FIRST : KEPT_BYTES_OTHER);
}

/* ---- a canvas' way ---- */

static void run_network(const struct pass *pass, const uint8_t *canvas)
{
    const struct engine *engine = pass->engine;
    struct team *team = pass->team;
    struct lane *lane = pass->lane;
    float *scratch = lane->scratch;
    long floats = pass->worker_floats;
    if (engine->bfloat16) {
        bfloat16_run(engine->bfloat16, team, canvas, 32 * lane->coarse.height, 32 * lane->coarse.width,
                     lane->memory +
                         picture_floats(lane->coarse.channels, lane->coarse.height, lane->coarse.width),
                     &lane->coarse, scratch, floats);
        return;
    }
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

static void run_head(const struct pass *pass, const struct region *region, uint8_t *mask)
{
    const struct head *head = &pass->engine->head;
    const struct picture *coarse = &pass->lane->coarse;
    float *scratch = pass->lane->scratch;
    long shared = head_shared_scratch(head, coarse->height, coarse->width, region->output_width);
    head_apply(pass->team, head, coarse, *region, mask, scratch + pass->worker_floats - shared, scratch,
               pass->worker_floats);
}

static int segment(struct engine *engine, struct team *team, int lane, const uint8_t *canvas, int height,
                   int width, const struct region *region, uint8_t *mask)
{
    struct pass pass;
    int failed = begin(&pass, engine, team, lane, height, width, region);
    if (!failed) {
        run_network(&pass, canvas);
        run_head(&pass, region, mask);
    }
    end(&pass);
    return failed;
}

int engine_segment(struct engine *engine, const uint8_t *canvas, int height, int width,
                   const struct region *region, uint8_t *mask)
{
    return segment(engine, engine->team, 0, canvas, height, width, region, mask);
}

int engine_segment_alone(struct engine *engine, int lane, const uint8_t *canvas, int height, int width,
                         const struct region *region, uint8_t *mask)
{
    return segment(engine, engine->alone, lane, canvas, height, width, region, mask);
}

int engine_coarse_logits(struct engine *engine, const uint8_t *canvas, int height, int width, float *logits)
{
    const struct region region = {height, width, height, width};
    struct pass pass;
    if (begin(&pass, engine, engine->team, 0, height, width, &region) != 0)
        return -1;
    run_network(&pass, canvas);
    const struct picture *coarse = &pass.lane->coarse;
    for (int class = 0; class < engine->head.classes; class++)
        for (int y = 0; y < coarse->height; y++)
            for (int x = 0; x < coarse->width; x++)
                *logits++ = pixel(coarse, class / LANES, y, x)[class % LANES];
    end(&pass);
    return 0;
}

int engine_head(struct engine *engine, const float *logits, int height, int width,
                const struct region *region, uint8_t *mask)
{
    struct pass pass;
    if (begin(&pass, engine, engine->team, 0, 32 * height, 32 * width, region) != 0)
        return -1;
    for (int class = 0; class < engine->head.classes; class++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                pixel(&pass.lane->coarse, class / LANES, y, x)[class % LANES] = *logits++;
    run_head(&pass, region, mask);
    end(&pass);
    return 0;
}
