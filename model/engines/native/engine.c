#include "engine.h"

#include "bfloat16.h"
#include "convolution.h"
#include "head.h"
#include "memory.h"
#include "network.h"
#include "stem.h"
#include "workspace.h"

struct residual_block {
    struct convolution first, second, shortcut; /* shortcut: of the first block of stages 1 to 3 */
};

struct engine {
    struct thread_pool *pool, *single_thread;
    struct stem stem;
    struct residual_block blocks[RESIDUAL_BLOCKS];
    struct convolution classifier;
    struct bfloat16_network *bfloat16; /* instead of stem, blocks and classifier, or NULL */
    struct head head;
    struct workspace
        *workspaces; /* one more than threads; the first is also the one of all threads together */
};

/* One canvas on its way through the network: the threads and the memory that it uses. */
struct pass {
    const struct engine *engine;
    struct thread_pool *pool;
    struct workspace *workspace;
    long thread_floats; /* of scratch memory, for each thread */
};

/* ---- start and stop ---- */

static int pack(struct engine *engine, const float *const *tensors, const float *levels)
{
    int failed = stem_pack(&engine->stem, tensors[0], tensors[1], channels_at(0), levels);
    tensors += 2;
    for (int b = 0; b < RESIDUAL_BLOCKS && !failed; b++) {
        struct residual_block *block = &engine->blocks[b];
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
    return failed || convolution_pack(&engine->classifier, tensors[0], tensors[1], engine->head.classes,
                                      channels_at(STAGES - 1), 1, 1);
}

struct engine *engine_start(const float *const *convolutions, const float *levels, const float *head_kernel,
                            const float *head_bias, int classes, int threads, int bfloat16)
{
    if (classes < 1 || classes > MAX_CLASSES)
        return NULL;
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return NULL;
    engine->pool = thread_pool_start(threads);
    engine->single_thread = thread_pool_start(1);
    engine->workspaces = calloc(threads + 1, sizeof *engine->workspaces);
    int failed = !engine->pool || !engine->single_thread || !engine->workspaces ||
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

void engine_stop(struct engine *engine)
{
    stem_free(&engine->stem);
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        convolution_free(&engine->blocks[b].first);
        convolution_free(&engine->blocks[b].second);
        convolution_free(&engine->blocks[b].shortcut);
    }
    convolution_free(&engine->classifier);
    if (engine->bfloat16)
        bfloat16_free(engine->bfloat16);
    head_free(&engine->head);
    if (engine->workspaces && engine->pool)
        for (int workspace = 0; workspace <= thread_pool_size(engine->pool); workspace++)
            workspace_free(&engine->workspaces[workspace]);
    free(engine->workspaces);
    if (engine->pool)
        thread_pool_stop(engine->pool);
    if (engine->single_thread)
        thread_pool_stop(engine->single_thread);
    free(engine);
}

/* ---- passes ---- */

/* Scratch memory for each thread. The end of the first thread's holds what the threads share in the head. */
static int provide_scratch(struct pass *pass, int height, int width, const struct region *region)
{
    const struct engine *engine = pass->engine;
    int threads = thread_pool_size(pass->pool);
    int scaled = region->height != region->output_height || region->width != region->output_width;
    long floats = engine->bfloat16 ? bfloat16_scratch(width) : stem_scratch(&engine->stem, width);
    for (int b = 0; b < RESIDUAL_BLOCKS && !engine->bfloat16; b++) {
        int h = side_at(stage_of(b), height), w = side_at(stage_of(b), width);
        floats = MAX(floats, convolution_scratch(&engine->blocks[b].second, h, w, threads));
    }
    floats =
        MAX(floats, head_scratch(&engine->head, width / 32, scaled) +
                        head_shared_scratch(&engine->head, height / 32, width / 32, region->output_width));
    pass->thread_floats = (floats + SIMD_WIDTH - 1) / SIMD_WIDTH * SIMD_WIDTH;
    return workspace_provide_scratch(pass->workspace, threads * pass->thread_floats);
}

static int begin(struct pass *pass, struct engine *engine, struct thread_pool *pool, int workspace,
                 int height, int width, const struct region *region)
{
    *pass = (struct pass){engine, pool, &engine->workspaces[workspace], 0};
    return provide_scratch(pass, height, width, region) != 0
               ? -1
               : workspace_lay_out(pass->workspace, engine->head.classes, engine->bfloat16 != NULL, height,
                                   width);
}

static void end(struct pass *pass)
{
    int shared = pass->workspace == pass->engine->workspaces;
    workspace_trim(pass->workspace, shared, thread_pool_size(pass->pool));
}

/* ---- the network ---- */

static void run_network(const struct pass *pass, const uint8_t *canvas)
{
    const struct engine *engine = pass->engine;
    struct thread_pool *pool = pass->pool;
    struct workspace *workspace = pass->workspace;
    float *scratch = workspace->scratch;
    long floats = pass->thread_floats;
    if (engine->bfloat16) {
        bfloat16_run(engine->bfloat16, pool, canvas, 32 * workspace->coarse.height,
                     32 * workspace->coarse.width, workspace_bfloat16_memory(workspace), &workspace->coarse,
                     scratch, floats);
        return;
    }
    const struct feature_map *x = &workspace->maps[0][0];
    stem_apply(pool, &engine->stem, canvas, &workspace->maps[0][0], scratch, floats);
    for (int b = 0; b < RESIDUAL_BLOCKS; b++) {
        const struct residual_block *block = &engine->blocks[b];
        struct feature_map *identity = &workspace->maps[stage_of(b)][0], *middle = identity + 1;
        convolve(pool, &block->first, x, NULL, 1, middle, scratch, floats);
        if (has_shortcut(b))
            convolve(pool, &block->shortcut, x, NULL, 0, identity, scratch, floats);
        convolve(pool, &block->second, middle, identity, 1, identity, scratch, floats);
        x = identity;
    }
    convolve(pool, &engine->classifier, x, NULL, 0, &workspace->coarse, scratch, floats);
}

static void run_head(const struct pass *pass, const struct region *region, uint8_t *mask)
{
    const struct head *head = &pass->engine->head;
    const struct feature_map *coarse = &pass->workspace->coarse;
    float *scratch = pass->workspace->scratch;
    long shared = head_shared_scratch(head, coarse->height, coarse->width, region->output_width);
    head_apply(pass->pool, head, coarse, *region, mask, scratch + pass->thread_floats - shared, scratch,
               pass->thread_floats);
}

static int segment(struct engine *engine, struct thread_pool *pool, int workspace, const uint8_t *canvas,
                   int height, int width, const struct region *region, uint8_t *mask)
{
    struct pass pass;
    int failed = begin(&pass, engine, pool, workspace, height, width, region);
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
    return segment(engine, engine->pool, 0, canvas, height, width, region, mask);
}

int engine_segment_single_threaded(struct engine *engine, int workspace, const uint8_t *canvas, int height,
                                   int width, const struct region *region, uint8_t *mask)
{
    return segment(engine, engine->single_thread, workspace, canvas, height, width, region, mask);
}

static int coarse_logits(struct engine *engine, struct thread_pool *pool, int workspace,
                         const uint8_t *canvas, int height, int width, float *logits)
{
    const struct region region = {height, width, height, width};
    struct pass pass;
    if (begin(&pass, engine, pool, workspace, height, width, &region) != 0)
        return -1;
    run_network(&pass, canvas);
    const struct feature_map *coarse = &pass.workspace->coarse;
    for (int class = 0; class < engine->head.classes; class++)
        for (int y = 0; y < coarse->height; y++)
            for (int x = 0; x < coarse->width; x++)
                *logits++ = pixel(coarse, class / SIMD_WIDTH, y, x)[class % SIMD_WIDTH];
    end(&pass);
    return 0;
}

int engine_coarse_logits(struct engine *engine, const uint8_t *canvas, int height, int width, float *logits)
{
    return coarse_logits(engine, engine->pool, 0, canvas, height, width, logits);
}

int engine_coarse_logits_single_threaded(struct engine *engine, int workspace, const uint8_t *canvas,
                                         int height, int width, float *logits)
{
    return coarse_logits(engine, engine->single_thread, workspace, canvas, height, width, logits);
}

int engine_head(struct engine *engine, const float *logits, int height, int width,
                const struct region *region, uint8_t *mask)
{
    struct pass pass;
    if (begin(&pass, engine, engine->pool, 0, 32 * height, 32 * width, region) != 0)
        return -1;
    for (int class = 0; class < engine->head.classes; class++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                pixel(&pass.workspace->coarse, class / SIMD_WIDTH, y, x)[class % SIMD_WIDTH] = *logits++;
    run_head(&pass, region, mask);
    end(&pass);
    return 0;
}
